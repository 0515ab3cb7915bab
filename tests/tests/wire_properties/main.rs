//! Properties of the wire: one encoding per message, no panic on any bytes, every count bounded before it is believed.

mod parts;
mod replies;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use twostep_crypto::{Party, Signature, Signed};
use twostep_engine::message::{
    Certificate, Message, NAME_BYTES, NewRegency, ProofOfLeadership, RegencyVote, Report,
    ReportedVote, RequestNames, Status, Values, Voice, WireError,
};
use twostep_engine::tracking::TRACKED_MAX;
use twostep_engine::types::{ClientId, Decree, Digest, NodeId, Regency, Value};
use twostep_engine::wire::{Bounds, decode, encode, shows_signatures};
use twostep_net::pool::{Body, Pool};

use parts::parts;

/// f = 1 in mode F with a small window.
const BOUNDS: Bounds = Bounds {
    learners: 4,
    acceptors: 6,
    proposers: 4,
    window: 8,
    body_bytes_max: 300,
    bundle_bytes_max: 296,
    reply_bytes_max: 40,
};

const KINDS: usize = 34;

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_comes_back(parts in parts(), kind in 0..KINDS, before in vec(any::<u8>(), 0..9)) {
        let message = parts.message(kind);
        let mut out = before.clone();
        encode(&message, &mut out);
        let bytes = &out[before.len()..];
        prop_assert_eq!(&out[..before.len()], &before, "encode appends");
        prop_assert!(
            shows_signatures(bytes) || message.signatures() == 0,
            "signatures are told from the first byte"
        );
        prop_assert_eq!(&read(bytes), &Ok(message));
        prop_assert!(bytes.len() <= BOUNDS.message_bytes_max(), "{} bytes", bytes.len());
    }

    #[test]
    fn every_cut_is_an_error_and_so_is_every_tail(parts in parts(), kind in 0..KINDS) {
        let bytes = encoded(&parts.message(kind));
        for len in 0..bytes.len() {
            let answer = read(&bytes[..len]);
            prop_assert!(matches!(answer, Err(WireError::Truncated(_))), "cut at {} of {}: {:?}", len, bytes.len(), answer);
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        prop_assert_eq!(read(&longer), Err(WireError::Trailing(1)));
    }

    #[test]
    fn a_flipped_bit_is_an_error_or_another_message(parts in parts(), kind in 0..KINDS, bit in any::<Index>()) {
        let message = parts.message(kind);
        let mut bytes = encoded(&message);
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = read(&bytes) {
            prop_assert_ne!(&other, &message);
            prop_assert_eq!(encoded(&other), bytes);
        }
    }

    #[test]
    fn damaged_bytes_are_an_error_or_the_one_encoding_of_something(
        parts in parts(),
        kind in 0..KINDS,
        damage in vec((any::<Index>(), prop_oneof![Just(0), Just(1), Just(255), any::<u8>()]), 1..6),
    ) {
        let mut bytes = encoded(&parts.message(kind));
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Ok(message) = read(&bytes) {
            prop_assert_eq!(encoded(&message), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_are_an_error_or_the_one_encoding_of_something(tag in 0..=40u8, tail in vec(any::<u8>(), 0..400)) {
        let bytes = [&[tag], tail.as_slice()].concat();
        if let Ok(message) = read(&bytes) {
            if let Message::Replies { entries, .. } | Message::Found { entries, .. } = &message {
                let _ = entries.iter().count();
            }
            prop_assert_eq!(encoded(&message), bytes);
        }
    }
}

#[test]
fn a_count_at_its_limit_is_taken_and_one_more_is_refused() {
    let nodes = |count: usize| (0..u16::try_from(count).expect("small")).map(NodeId);
    let certificate = |count: usize| Certificate {
        decree: Decree(8),
        chain: Digest([1; 32]),
        voices: nodes(count)
            .map(|learner| Voice {
                learner,
                results: Digest([2; 32]),
                signature: Signature([3; 64]),
            })
            .collect(),
    };
    let proof = |count: usize| ProofOfLeadership {
        votes: nodes(count)
            .map(|node| {
                signed(
                    node,
                    RegencyVote {
                        regency: Regency(3),
                    },
                )
            })
            .collect(),
    };
    let report = |votes: usize, voices: usize| Report {
        regency: Regency(3),
        low: Some(certificate(voices)),
        votes: (1..=votes as u64)
            .map(|decree| ReportedVote {
                decree: Decree(decree),
                psn: Regency(0),
                value: Value(Digest::ZERO),
            })
            .collect(),
    };
    let voucher = |count: usize| {
        nodes(count)
            .map(|node| signed(node, report(0, 0)))
            .collect()
    };
    let new_regency = |count| NewRegency {
        regency: Regency(3),
        proof: proof(3),
        voucher: voucher(count),
    };
    let zeros = [0; 1024];
    let body = |len: usize| Body::from_vec(zeros[..len].to_vec());
    let pulled = |count: usize| Values::new(&zeros[..32 * count]).expect("a multiple of 32");
    let (decree, regency, value) = (Decree(1), Regency(1), Value(Digest::ZERO));
    let names = [7; NAME_BYTES * (TRACKED_MAX + 1)];
    // What is counted, at its limit, and one above it.
    let cases: Vec<(&str, u64, Message<'_>, Message<'_>)> = vec![
        (
            "the voices of a certificate",
            4,
            Message::Certificate(certificate(4)),
            Message::Certificate(certificate(5)),
        ),
        (
            "the votes of a proof of leadership",
            4,
            Message::Proof(proof(4)),
            Message::Proof(proof(5)),
        ),
        (
            "the votes of a proof of leadership",
            4,
            Message::Denied(proof(4)),
            Message::Denied(proof(5)),
        ),
        (
            "the votes of a proof of leadership",
            4,
            Message::Gather {
                regency,
                proof: proof(4),
            },
            Message::Gather {
                regency,
                proof: proof(5),
            },
        ),
        (
            "the votes of a report",
            8,
            said(report(8, 0)),
            said(report(9, 0)),
        ),
        (
            "the voices of a certificate",
            4,
            said(report(1, 4)),
            said(report(1, 5)),
        ),
        (
            "the reports of a voucher",
            6,
            Message::NewRegency(Box::new(new_regency(6))),
            Message::NewRegency(Box::new(new_regency(7))),
        ),
        (
            "the names of requests",
            TRACKED_MAX as u64,
            Message::AskSettled {
                executed: decree,
                names: RequestNames::new(ClientId([7; 16]), &names[NAME_BYTES..]).expect("names"),
            },
            Message::AskSettled {
                executed: decree,
                names: RequestNames::new(ClientId([7; 16]), &names).expect("names"),
            },
        ),
        (
            "a body",
            300,
            Message::Propose {
                regency,
                decree,
                value,
                body: body(300),
            },
            Message::Propose {
                regency,
                decree,
                value,
                body: body(301),
            },
        ),
        (
            "a body",
            300,
            Message::Fetched {
                decree,
                value,
                body: body(300),
            },
            Message::Fetched {
                decree,
                value,
                body: body(301),
            },
        ),
        (
            "a bundle",
            296,
            Message::Submit {
                retry: true,
                bundle: &zeros[..296],
            },
            Message::Submit {
                retry: true,
                bundle: &zeros[..297],
            },
        ),
        (
            "the values of a Pull",
            8,
            Message::Pull {
                first: decree,
                count: 8,
            },
            Message::Pull {
                first: decree,
                count: 9,
            },
        ),
        (
            "the values of a Pulled",
            8,
            Message::Pulled {
                first: decree,
                values: pulled(8),
            },
            Message::Pulled {
                first: decree,
                values: pulled(9),
            },
        ),
    ];
    for (what, limit, largest, too_large) in cases {
        assert_eq!(read(&encoded(&largest)), Ok(largest.clone()), "{what}");
        assert_eq!(
            read(&encoded(&too_large)),
            Err(WireError::Limit {
                what,
                found: limit + 1,
                limit
            })
        );
    }
}

#[test]
fn the_largest_message_is_as_large_as_the_bounds_say() {
    let nodes = || (0..6).map(NodeId);
    let votes = |count: u64| -> Vec<ReportedVote> {
        (1..=count)
            .map(|at| ReportedVote {
                decree: Decree(at),
                psn: Regency(0),
                value: Value(Digest::ZERO),
            })
            .collect()
    };
    let voices = nodes().take(4).map(|learner| Voice {
        learner,
        results: Digest::ZERO,
        signature: Signature([0; 64]),
    });
    let low = Certificate {
        decree: Decree(8),
        chain: Digest::ZERO,
        voices: voices.collect(),
    };
    let report = Report {
        regency: Regency(1),
        low: Some(low),
        votes: votes(8),
    };
    let proof = nodes()
        .take(4)
        .map(|node| {
            signed(
                node,
                RegencyVote {
                    regency: Regency(1),
                },
            )
        })
        .collect();
    let full = NewRegency {
        regency: Regency(1),
        proof: ProofOfLeadership { votes: proof },
        voucher: nodes().map(|node| signed(node, report.clone())).collect(),
    };
    assert_eq!(
        encoded(&Message::NewRegency(Box::new(full))).len(),
        BOUNDS.message_bytes_max()
    );

    let wide = Bounds {
        body_bytes_max: 1 << 20,
        ..BOUNDS
    };
    let (regency, decree, value) = (Regency(0), Decree(1), Value(Digest::ZERO));
    let propose = Message::Propose {
        regency,
        decree,
        value,
        body: Body::from_vec(vec![0; 1 << 20]),
    };
    assert_eq!(encoded(&propose).len(), wide.message_bytes_max());
}

#[test]
fn who_or_what_stands_twice_or_out_of_order_is_refused() {
    for nodes in [[NodeId(1), NodeId(1)], [NodeId(2), NodeId(1)]] {
        let voices = nodes
            .map(|learner| Voice {
                learner,
                results: Digest::ZERO,
                signature: Signature([0; 64]),
            })
            .to_vec();
        let certificate = Certificate {
            decree: Decree(8),
            chain: Digest::ZERO,
            voices,
        };
        let proof = ProofOfLeadership {
            votes: nodes
                .map(|node| {
                    signed(
                        node,
                        RegencyVote {
                            regency: Regency(1),
                        },
                    )
                })
                .to_vec(),
        };
        let empty = Report {
            regency: Regency(1),
            low: None,
            votes: vec![],
        };
        let voucher = nodes.map(|node| signed(node, empty.clone())).to_vec();
        let votes = nodes
            .map(|node| ReportedVote {
                decree: Decree(node.0.into()),
                psn: Regency(0),
                value: Value(Digest::ZERO),
            })
            .to_vec();
        let no_proof = ProofOfLeadership::default();
        let cases = [
            (
                "the voices of a certificate",
                Message::Certificate(certificate.clone()),
            ),
            (
                "the voices of a certificate",
                said(Report {
                    low: Some(certificate),
                    ..empty.clone()
                }),
            ),
            (
                "the votes of a proof of leadership",
                Message::Proof(proof.clone()),
            ),
            (
                "the votes of a proof of leadership",
                Message::Denied(proof.clone()),
            ),
            (
                "the votes of a proof of leadership",
                Message::Gather {
                    regency: Regency(1),
                    proof,
                },
            ),
            ("the votes of a report", said(Report { votes, ..empty })),
            (
                "the reports of a voucher",
                Message::NewRegency(Box::new(NewRegency {
                    regency: Regency(1),
                    proof: no_proof,
                    voucher,
                })),
            ),
        ];
        for (what, message) in cases {
            assert_eq!(
                read(&encoded(&message)),
                Err(WireError::Order(what)),
                "{nodes:?}"
            );
        }
    }
}

#[test]
fn a_byte_that_names_no_case_is_refused() {
    let mut submit = encoded(&Message::Submit {
        retry: true,
        bundle: b"x",
    });
    submit[1] = 2;
    assert_eq!(
        read(&submit),
        Err(WireError::Case {
            what: "flag (0 or 1)",
            found: 2
        })
    );
    let mut status = encoded(&Message::Status(Status {
        plan_held: true,
        abstaining: true,
        ..Status::default()
    }));
    status[9] |= 4;
    assert_eq!(
        read(&status),
        Err(WireError::Case {
            what: "set of status flags",
            found: 7
        })
    );
    let mut report = encoded(&said(Report {
        regency: Regency(1),
        low: None,
        votes: vec![],
    }));
    report[11] = 0xff;
    assert_eq!(
        read(&report),
        Err(WireError::Case {
            what: "flag (0 or 1)",
            found: 0xff
        })
    );
}

#[test]
fn a_claimed_count_makes_no_room_before_its_bytes_are_there() {
    // 2^32 − 1 votes of 48 bytes each would be 192 GiB.
    let wide = Bounds {
        window: u64::MAX,
        ..BOUNDS
    };
    let mut bytes = encoded(&said(Report {
        regency: Regency(1),
        low: None,
        votes: vec![],
    }));
    let count = bytes.len() - 64 - 4;
    bytes[count..count + 4].fill(0xff);
    assert_eq!(
        decode(&bytes, &Pool::default(), &wide),
        Err(WireError::Truncated("the votes of a report"))
    );

    let pool = Pool::new(1 << 20);
    let wide = Bounds {
        body_bytes_max: usize::MAX,
        ..BOUNDS
    };
    let fetched = Message::Fetched {
        decree: Decree(1),
        value: Value(Digest::ZERO),
        body: Body::empty(),
    };
    let mut bytes = encoded(&fetched);
    let length = bytes.len() - 4;
    bytes[length..].fill(0xff);
    assert_eq!(
        decode(&bytes, &pool, &wide),
        Err(WireError::Truncated("a body"))
    );
    assert_eq!(
        pool.buffers_made(),
        0,
        "no buffer was made for a body that is not there"
    );
}

fn read(bytes: &[u8]) -> Result<Message<'_>, WireError> {
    decode(bytes, &Pool::new(1 << 16), &BOUNDS)
}

fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(message, &mut out);
    out
}

fn said(report: Report) -> Message<'static> {
    Message::Report(Box::new(signed(NodeId(0), report)))
}

fn signed<T>(node: NodeId, content: T) -> Signed<T> {
    Signed {
        signer: Party::Node(node),
        content,
        signature: Signature([7; 64]),
    }
}
