//! A cluster for f = 1 in one thread, without links: what the benchmarks share.
#![allow(dead_code, reason = "each benchmark uses a part of it")]

pub mod lab;

use std::sync::Arc;

use twostep_crypto::Identity;
use twostep_engine::client::{AuthenticatorKeys, ClientSetup, ClientTuning};
use twostep_engine::configuration::{Admission, Configuration, Limits, Member, Roles};
use twostep_engine::quorum::FaultModel;

/// The identity of node `seed - 1`.
pub fn identity(seed: u8) -> Identity {
    Identity::from_seed([seed; 32])
}

/// The members of the production layout for f = 1.
pub fn members(model: FaultModel) -> Vec<Member> {
    let roles = |seed| {
        if usize::from(seed) <= model.learners(1) {
            Roles::ALL
        } else {
            Roles::ACCEPTOR
        }
    };
    let seeds = (1..).take(model.acceptors(1));
    seeds
        .map(|seed: u8| Member {
            roles: roles(seed),
            public: identity(seed).public(),
        })
        .collect()
}

/// A cluster with the default limits.
pub fn configuration(model: FaultModel) -> Arc<Configuration> {
    let admission = if model == FaultModel::Crash {
        Admission::Link
    } else {
        Admission::Mac
    };
    let configuration = Configuration::new(
        model,
        1,
        members(model),
        Limits::default(),
        admission,
        [0; 16],
    );
    Arc::new(configuration.expect("a sound configuration"))
}

/// A client of it.
pub fn client(configuration: &Arc<Configuration>) -> ClientSetup {
    let identity = Arc::new(Identity::from_seed([200; 32]));
    let keys = AuthenticatorKeys::derive(configuration, &identity).expect("sound keys");
    let tuning = ClientTuning::default();
    ClientSetup {
        configuration: Arc::clone(configuration),
        identity,
        keys,
        tuning,
        seed: 1,
    }
}
