//! The floor in threads of this process: what is recorded is replayed, and what is asked for under load is answered.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use twostep_bench::floor::pattern::Pattern;
use twostep_bench::floor::trace::Trace;
use twostep_bench::floor::{FloorClient, FloorPlan, serve};
use twostep_bench::lab;
use twostep_engine::null::Null;
use twostep_engine::quorum::FaultModel;

/// Addresses that were free a moment ago.
fn addresses(count: usize) -> Vec<SocketAddr> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let held: Vec<_> = (0..count).map(bind).collect();
    held.iter().map(|one| one.local_addr().unwrap()).collect()
}

#[test]
fn the_floor_replays_and_carries_load() {
    for mode in [FaultModel::Fab, FaultModel::Crash] {
        let record = |count| Trace::record(mode, 1, || Null, &[7; 64], count);
        let (trace, many) = (record(1), record(9));
        let messages = trace.len() as u64;
        let by_nodes = messages - 1;
        let plan = FloorPlan {
            addresses: addresses(trace.nodes),
            pattern: Pattern::new(
                &lab::configuration(mode, 1),
                4,
                Duration::from_millis(500),
                &trace,
                &many,
                9,
            ),
            trace,
            driver: "auto".to_owned(),
            datagram_bytes: None,
            spin_us: 0,
            busy_poll: false,
        };
        for node in 0..plan.addresses.len() {
            let plan = plan.clone();
            // It ends with an error when the client has gone.
            thread::spawn(move || serve(&plan, node));
        }
        let mut client = FloorClient::connect(plan).unwrap();
        let said = |client: &mut FloorClient| {
            let counters = client.counters().unwrap();
            counters.iter().map(|node| node.messages).sum::<u64>()
        };
        let before = said(&mut client);
        let lone = client.lone(Duration::from_millis(50)).unwrap();
        let after = said(&mut client);
        assert!(lone.operations > 0 && lone.p50_us > 0, "{lone:?}");
        // Acknowledgements of the last operation may still be on their way, and answers to questions come on top.
        let (least, most) = (
            by_nodes * (lone.operations - 1),
            by_nodes * lone.operations + 20,
        );
        assert!(
            (least..=most).contains(&(after - before)),
            "{} messages for {lone:?}",
            after - before
        );

        for in_flight in [1, 100] {
            let load = client.load(in_flight, Duration::from_millis(50)).unwrap();
            assert!(load.operations >= u64::from(in_flight), "{load:?}");
            assert!(
                load.ops_per_s > 0.0 && load.p50_us <= load.p99_us,
                "{load:?}"
            );
        }
        let counters = client.counters().unwrap();
        assert!(
            counters
                .iter()
                .all(|node| node.messages >= node.packets && node.cpu_ns > 0)
        );
    }
}
