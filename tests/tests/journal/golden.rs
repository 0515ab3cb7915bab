//! The bytes of a journal, pinned: journals are read for years. A change here is a decision: raise the format's version, and say how the old
//! one is read.

use std::fmt::Write as _;
use std::path::PathBuf;

use twostep_crypto::{ClusterId, Epoch};
use twostep_engine::journal::format::{Header, Owner, write_entry};
use twostep_engine::journal::preamble::Preamble;
use twostep_engine::journal::record;
use twostep_engine::types::{Decree, NodeId};

use crate::samples::{reading, records};

/// Set it to write the file instead of comparing with it.
const BLESS: &str = "TWOSTEP_BLESS";

const HEADER: &str = "\
# The bytes of a journal, format 2: `name = hexadecimal`. See tests/tests/journal/golden.rs before changing a line.
";

fn pins() -> Vec<(String, Vec<u8>)> {
    let header = Header {
        owner: Owner {
            cluster: ClusterId([7; 32]),
            epoch: Epoch(3),
            node: NodeId(258),
        },
        number: 12,
        length: 1 << 20,
    };
    let mut pins = vec![("header".to_owned(), header.encode().to_vec())];
    let mut preamble = Preamble {
        born: true,
        pruned: Decree(77),
        ..Preamble::default()
    };
    for (seq, found) in (1..).zip(records()) {
        let kind = record::kind(&found.borrowed());
        for here in [true, false] {
            let mut payload = Vec::new();
            record::write(&found.borrowed(), here, &mut payload);
            if here || !record::is_single(kind) {
                pins.push((
                    format!("record {seq} of kind {kind}, here {here}"),
                    payload.clone(),
                ));
            }
            if record::is_single(kind) {
                preamble.singles.put(seq, kind, &payload);
            }
        }
    }
    let mut payload = Vec::new();
    preamble.write(&mut payload);
    pins.push(("preamble".to_owned(), payload));
    let mut entry = Vec::new();
    write_entry(&mut entry, (12, 4096), (3, 9, 8), |out| {
        out.extend_from_slice(b"an entry");
    });
    pins.push(("entry".to_owned(), entry));
    pins
}

#[test]
fn bytes_stand_as_they_are_pinned() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/journal.txt");
    let mut text = String::from(HEADER);
    for (name, bytes) in pins() {
        writeln!(text, "{name} = {}", hex::encode(bytes)).expect("a string takes everything");
    }
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&path, text).expect("tests/golden can be written");
        return;
    }
    let pinned = std::fs::read_to_string(&path).expect("a part of the repository");
    for (made, pinned) in text.lines().zip(pinned.lines()) {
        assert_eq!(
            made, pinned,
            "if the format is meant to change: raise its version, and run \
            `{BLESS}=1 cargo test -p twostep-tests --test journal`"
        );
    }
    assert_eq!(text.lines().count(), pinned.lines().count());
}

#[test]
fn every_kind_reads_back_and_cut_or_longer_ones_do_not() {
    for found in records() {
        let kind = record::kind(&found.borrowed());
        let mut payload = Vec::new();
        record::write(&found.borrowed(), true, &mut payload);
        let read = |payload: &[u8]| record::read(kind, payload, &reading(), |_, _| None);
        assert_eq!(read(&payload).unwrap(), found);
        for length in 0..payload.len() {
            read(&payload[..length]).expect_err("cut");
        }
        payload.push(0);
        read(&payload).expect_err("a byte too many");
    }
}
