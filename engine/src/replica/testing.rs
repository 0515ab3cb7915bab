//! One replica of a cluster of six, for tests that feed it by hand.

use std::sync::Arc;

use twostep_crypto::Identity;
use twostep_net::pool::Pool;

use super::{Replica, Setup, Standing};
use crate::admission::ClientDirectory;
use crate::configuration::{Admission, Configuration, Limits, Member, Roles, Tuning};
use crate::quorum::FaultModel;
use crate::types::NodeId;

pub(crate) fn identity(seed: u8) -> Identity {
    Identity::from_seed([seed; 32])
}

/// Node `me` of six in mode F, and the client that they know; the last two nodes only accept.
pub(crate) fn one_of_six(me: u8, admission: Admission) -> (Replica, Arc<Configuration>, Identity) {
    let (setup, client) = setup_of_six(me, admission);
    let configuration = Arc::clone(&setup.configuration);
    let replica = Replica::new(setup);
    (replica.expect("no key is weak"), configuration, client)
}

/// What such a node is made of.
pub(crate) fn setup_of_six(me: u8, admission: Admission) -> (Setup, Identity) {
    let member = |node| Member {
        roles: if node < 4 {
            Roles::ALL
        } else {
            Roles::ACCEPTOR
        },
        public: identity(node).public(),
    };
    let members = (0..6).map(member).collect();
    let limits = Limits::default();
    let configuration = Configuration::new(FaultModel::Fab, 1, members, limits, admission, [0; 16]);
    let configuration = Arc::new(configuration.expect("a consistent configuration"));
    let client = identity(99);
    let setup = Setup {
        configuration,
        me: NodeId(u16::from(me)),
        identity: Arc::new(identity(me)),
        clients: Arc::new(ClientDirectory::new([client.public()])),
        tuning: Tuning::default(),
        pool: Pool::default(),
        standing: Standing::Born,
    };
    (setup, client)
}
