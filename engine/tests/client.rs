//! The async client against real nodes.

#[expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    dead_code,
    reason = "the test hosts nodes on threads and chooses free ports; it asks none of them for its status"
)]
mod cluster;

use std::time::Duration;

use cluster::Cluster;
use twostep_engine::client::{
    CallError, CallRefused, Client, ClientOptions, ConnectError, Session,
};
use twostep_engine::key_value::{KeyValueReply, Operation};
use twostep_engine::node::NodeOptions;
use twostep_engine::node::tunables::Durability;
use twostep_engine::quorum::FaultModel;

fn options(cluster: &Cluster) -> ClientOptions {
    let mut options = cluster.client().options().unwrap();
    options.connect_timeout = Duration::from_secs(20);
    options
}

fn increment(key: &str) -> Vec<u8> {
    let mut operation = Vec::new();
    Operation::Increment {
        key: key.as_bytes(),
        by: 1,
        padding: &[],
    }
    .encode(&mut operation);
    operation
}

async fn number(session: &Session, key: &str) -> i64 {
    let committed = session.call(increment(key)).await.unwrap();
    match KeyValueReply::decode(&committed.reply) {
        Ok(KeyValueReply::Number(number)) => number,
        other => panic!("an increment is answered with a number, not {other:?}"),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), future)
            .await
            .expect("in time")
    })
}

#[test]
fn calls_are_executed_once_in_any_number_of_sessions() {
    for (mode, lanes, durability) in [
        (FaultModel::Fab, 1, Durability::Memory),
        (FaultModel::Crash, 1, Durability::Memory),
        (FaultModel::Fab, 2, Durability::Memory),
        (FaultModel::Fab, 1, Durability::Sync),
        (FaultModel::Crash, 2, Durability::Sync),
    ] {
        let options_of_nodes = NodeOptions {
            lanes,
            durability,
            ..NodeOptions::default()
        };
        let cluster = Cluster::start_with(mode, options_of_nodes);
        block_on(async {
            let client = Client::connect(options(&cluster)).await.unwrap();
            let (one, other) = (
                client.session().await.unwrap(),
                client.session().await.unwrap(),
            );
            assert_ne!(one.id(), other.id());
            assert_eq!(number(&one, "a").await, 1);
            assert_eq!(number(&other, "a").await, 2);
            // More calls at once than a session has numbers for: the rest waits.
            let calls: Vec<_> = (0..200).map(|_| number(&one, "b")).collect();
            let mut numbers = Vec::new();
            for call in join_all(calls).await {
                numbers.push(call);
            }
            assert_eq!(
                numbers,
                (1..=200).collect::<Vec<_>>(),
                "in the order of the calls"
            );
            let again = one
                .call_again(twostep_engine::types::Seq(1), increment("a"))
                .await;
            let far = CallRefused::NotAgain(twostep_engine::types::Seq(1));
            assert_eq!(again, Err(CallError::Refused(far)), "too far back");
            let last = twostep_engine::types::Seq(201);
            let repeated = one.call_again(last, increment("b")).await.unwrap();
            assert_eq!(
                KeyValueReply::decode(&repeated.reply),
                Ok(KeyValueReply::Number(200)),
                "not executed again"
            );
            drop(client);
            assert_eq!(one.call(increment("a")).await, Err(CallError::Stopped));
        });
    }
}

#[test]
fn a_stopped_learner_is_not_missed_and_a_missing_cluster_is_named() {
    let mut cluster = Cluster::start(FaultModel::Fab);
    let mut options = options(&cluster);
    block_on(async {
        let client = Client::connect(options.clone()).await.unwrap();
        let session = client.session().await.unwrap();
        cluster.stop(3);
        for expected in 1..=10 {
            assert_eq!(number(&session, "a").await, expected);
        }
    });
    (0..3).for_each(|node| cluster.stop(node));
    options.connect_timeout = Duration::from_millis(300);
    let error = block_on(Client::connect(options)).unwrap_err();
    assert!(
        matches!(&error, ConnectError::Unreachable(missing) if missing.len() == 4),
        "{error}"
    );
    let words = error.to_string();
    assert!(
        words.contains("node 0: cannot connect to 127.0.0.1:"),
        "{words}"
    );
}

/// Polls all futures in their order until all are done.
async fn join_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *result = Some(value);
            }
        }
        if results.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    results.into_iter().flatten().collect()
}
