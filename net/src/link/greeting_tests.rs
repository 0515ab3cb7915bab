//! Two links of datagrams that come up, with whatever a network or a stranger does to what travels.

use twostep_crypto::{Identity, MacKey, Party};

use super::super::ends::{End, MTU, converse, good_pair, limits, node, pair};
use super::*;
use crate::hello::cookie_packet;
use crate::link::SendOutcome;
use crate::packet::Sealer;
use crate::refusal::Refusal;

#[test]
fn whatever_is_lost_of_a_handshake_is_said_again() {
    // Hello, its answer, Proof, two Credits: every choice of those that are lost the first time.
    for lost in 0..32u32 {
        let (mut a, mut b) = pair(MTU);
        let mut count = 0;
        for _ in 0..10 {
            converse(&mut a, &mut b, |_| {
                count += 1;
                count > 5 || lost >> (count - 1) & 1 == 0
            });
            a.link.repeat_hello();
            // What the loop says on a link that is up and quiet.
            a.link.push_credit();
        }
        assert!(a.up && b.up, "with the losses {lost:05b}");
        assert_eq!(a.link.send(&[b"hello"], &[]), SendOutcome::Queued);
        converse(&mut a, &mut b, |_| true);
        assert_eq!(b.received, [b"hello"]);
    }
}

#[test]
fn what_strangers_send_changes_nothing() {
    let (mut a, mut b) = good_pair();
    let hello = Hello::new(&a.local, node(2), [8; 16]).to_datagram(MTU as u64);
    let hello = join(&hello, [0; COOKIE_BYTES]);
    let mut forged = Vec::new();
    let mut sealer = Sealer::new(MacKey::from_bytes([0; 32]), limits(MTU), 0);
    sealer.push(&mut forged, &[b"forged"], &[]);
    sealer.seal(&mut forged);
    let mut refusal = Header {
        length: wire_u32(HEADER_BYTES + 2),
        version: 1,
        kind: Kind::Refuse as u16,
        counter: 0,
        tag: MAGIC,
    }
    .to_bytes()
    .to_vec();
    refusal.extend([3, 0]);
    let mut closing = Vec::new();
    sealer.push_control(&mut closing, Kind::Close, &[]);
    let strange = [&hello[..], &forged, &refusal, &closing, &[7; 100], &[0; 33]];
    for datagram in strange {
        a.hears(datagram);
        b.hears(datagram);
    }
    assert_eq!((a.strays, b.strays), (strange.len(), strange.len()));
    assert!(
        a.says().is_empty() && b.says().is_empty(),
        "nobody is answered"
    );
    // While the handshake lasts as well.
    let (mut c, mut d) = pair(MTU);
    let first = c.says();
    for datagram in strange.iter().filter(|datagram| datagram[..] != hello[..]) {
        c.hears(datagram);
    }
    d.hears(&first[0]);
    for datagram in strange {
        d.hears(datagram);
    }
    let mut other = pair(MTU).1;
    other.hears(&hello[..]);
    for datagram in other.says() {
        c.hears(&datagram);
    }
    converse(&mut c, &mut d, |_| true);
    assert!(c.up && d.up);
}

#[test]
fn an_answer_weighs_at_most_three_times_the_question() {
    let (mut a, mut b) = pair(MTU);
    let hello = a.says().remove(0);
    let mut said = 0;
    for _ in 0..10 {
        b.hears(&hello);
        let answer: usize = b.says().iter().map(Vec::len).sum();
        assert!(answer <= 2 * hello.len(), "{answer} bytes");
        said += answer;
    }
    b.link.refuse(&LinkError::malformed(&"x".repeat(1000)));
    said += b.says().iter().map(Vec::len).sum::<usize>();
    assert!(said <= 10 * 3 * hello.len());
    let (_, mut silent) = pair(MTU);
    silent.link.refuse(&LinkError::handshake_timeout(5.0));
    assert!(
        silent.says().is_empty(),
        "who has said nothing is told nothing"
    );
}

#[test]
fn sizes_that_differ_are_told_to_both_sides() {
    let (mut a, mut b) = pair(1472);
    converse(&mut a, &mut b, |_| true);
    assert_eq!(b.refused, Some(Refusal::Mtu));
    assert!(
        matches!(a.link.doubt(), Some(Doubt::RefusedUs(refused)) if refused.reason == Refusal::Mtu)
    );
}

/// What somebody forges who sees the question of `a` on its way, and knows every public key.
fn forged(a: &End, question: &[u8]) -> Vec<Vec<u8>> {
    let (hello, _) = split_datagram(question).unwrap();
    let echo = echo_of(hello);
    let mut strange = Hello::new(&a.local, node(1), [9; 16]);
    let of_another = join(&strange.to_datagram(echo), [0; COOKIE_BYTES]);
    (strange.from, strange.boot) = (node(2), [6; 16]);
    let unknown_key = join(&strange.to_datagram(echo), [0; COOKIE_BYTES]);
    let public = Identity::from_seed([2; 32]).public();
    (strange.sign, strange.agree) = (*public.sign.as_bytes(), public.agree);
    let unproved = join(&strange.to_datagram(echo), [3; COOKIE_BYTES]);
    strange.cluster.0[0] ^= 1;
    let other_cluster = join(&strange.to_datagram(echo), [3; COOKIE_BYTES]);
    let mut refusal = Vec::new();
    super::super::push_plain_refusal(&mut refusal, echo, &LinkError::bad_proof().to_body());
    let nonce = hello.last_chunk().unwrap();
    let cookie = cookie_packet(nonce, [5; COOKIE_BYTES]).to_vec();
    let mut other_version = cookie.clone();
    other_version[4] = 9;
    let hellos = [of_another, unknown_key, unproved, other_cluster].map(|hello| hello.to_vec());
    [&hellos[..], &[refusal, cookie, other_version]].concat()
}

#[test]
fn no_forged_answer_ends_an_attempt_before_the_proved_one_comes() {
    let all = {
        let mut a = pair(MTU).0;
        let question = a.says().remove(0);
        forged(&a, &question)
    };
    assert_eq!(all.len(), 7);
    for first in 0..all.len() {
        let (mut a, mut b) = pair(MTU);
        let question = a.says().remove(0);
        a.hears(&forged(&a, &question)[first]);
        assert!(!a.up && a.refused.is_none() && a.refused_us.is_none());
        assert!(a.link.repeat_hello() || !a.says().is_empty());
        b.hears(&question);
        converse(&mut a, &mut b, |_| true);
        assert!(a.up && b.up, "after forgery {first}");
        assert_eq!(a.link.send(&[b"hello"], &[]), SendOutcome::Queued);
        converse(&mut a, &mut b, |_| true);
        assert_eq!(b.received, [b"hello"]);
    }
}

#[test]
fn a_flood_of_answers_is_looked_at_a_few_times_per_question() {
    let (mut a, mut b) = pair(MTU);
    let question = a.says().remove(0);
    let flood = forged(&a, &question);
    for _ in 0..1000 {
        // The answer of a good key without its proof: the one that costs an agreement.
        a.hears(&flood[2]);
    }
    assert_eq!(a.strays, 1000);
    b.hears(&question);
    let answer = b.says();
    a.hears(&answer[0]);
    assert!(!a.up, "nothing more is looked at now");
    a.link.repeat_hello();
    a.hears(&answer[0]);
    assert!(a.up, "but with the next question");
}

#[test]
fn a_cookie_is_said_back_at_once_and_a_newer_one_takes_its_place() {
    let (mut a, mut b) = pair(MTU);
    let question = a.says().remove(0);
    assert_eq!(question[HELLO_BYTES..], [0; COOKIE_BYTES]);
    let nonce = *split_datagram(&question).unwrap().0.last_chunk().unwrap();
    for cookie in [[5; COOKIE_BYTES], [4; COOKIE_BYTES]] {
        a.hears(&cookie_packet(&nonce, cookie));
        let again = a.says();
        assert_eq!(again.len(), 1);
        assert_eq!(again[0][..HELLO_BYTES], question[..HELLO_BYTES]);
        assert_eq!(again[0][HELLO_BYTES..], cookie);
        a.hears(&cookie_packet(&nonce, cookie));
        assert!(a.says().is_empty(), "it has said that");
    }
    // Whoever has not seen the question cannot make one.
    a.hears(&cookie_packet(&[0; 16], [3; COOKIE_BYTES]));
    assert!(a.says().is_empty());
    // The cookie belongs neither to the key nor to what makes a question another one.
    b.hears(&question);
    a.link.repeat_hello();
    converse(&mut a, &mut b, |_| true);
    assert!(a.up && b.up && b.strays == 0);
}

#[test]
fn a_proof_is_no_tag_of_a_packet() {
    let (mut a, mut b) = pair(MTU);
    b.hears(&a.says()[0]);
    let answer = b.says().remove(0);
    // The bytes that the proof covers, cut where a packet's tag stands.
    let proof = &answer[HELLO_BYTES..];
    let packet = [&answer[..16], proof, &answer[16..HELLO_BYTES]].concat();
    assert_eq!(packet.len(), answer.len());
    a.hears(&answer);
    assert!(a.up);
    let strays = a.strays;
    a.hears(&packet);
    assert_eq!(a.strays, strays + 1);
    assert!(
        a.refused.is_none()
            && a.link.peer().map(|peer| peer.party) == Some(Party::Node(twostep_crypto::NodeId(2)))
    );
}
