//! The node: configuration files, and a host that runs a replica over real links.
//!
//! | module | what |
//! |---|---|
//! | [`cluster`] | the cluster file: what all nodes and clients share |
//! | [`tunables`] | what a node may choose for itself: key, variable and flag from one table |
//! | [`config`] | a node's file, then variables, then flags |
//! | [`testnet`] | the folders of a new cluster |
//! | [`file`] | reading TOML with errors that say where and what was meant |

pub mod cluster;
pub mod config;
pub mod file;
pub mod testnet;
pub mod tunables;

pub use cluster::{ClientFolder, ClusterFile};
pub use config::NodeConfig;
pub use tunables::NodeOptions;
