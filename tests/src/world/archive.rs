//! Archives in a world: what the disk of a node holds of that which its log holds no more.

use twostep_engine::batch::Batch;
use twostep_engine::machine::{ArchiveNews, ArchiveTask, Input};
use twostep_engine::record::OwnedRecord;
use twostep_engine::types::{Decree, NodeId};

use super::World;
use crate::checkers::Finding;

impl World<'_> {
    /// The replica asks for what it learned once.
    pub(super) fn ask_archive(&mut self, node: NodeId, task: ArchiveTask) -> Result<(), Finding> {
        let news = self.read_archive(node, task);
        self.archived += u64::from(self.plan.archives && news.is_some());
        match news {
            Some(news) => self.drive(node, Input::Archive(news)),
            None => Ok(()),
        }
    }

    fn read_archive(&self, node: NodeId, task: ArchiveTask) -> Option<ArchiveNews> {
        match task {
            ArchiveTask::Body { .. } if !self.plan.archives => None,
            ArchiveTask::Values { asker, first, .. } if !self.plan.archives => {
                Some(ArchiveNews::Values {
                    asker,
                    first,
                    values: Vec::new(),
                })
            }
            ArchiveTask::Values {
                asker,
                first,
                count,
            } => {
                let known = (0..count).map_while(|place| self.learned_by(node, first.plus(place)));
                let values: Vec<u8> = known.flat_map(|batch| batch.value().0.0).collect();
                Some(ArchiveNews::Values {
                    asker,
                    first,
                    values,
                })
            }
            ArchiveTask::Body {
                asker,
                decree,
                value,
            } => {
                let batch = self.learned_by(node, decree);
                let batch = batch.filter(|batch| batch.value() == value)?;
                Some(ArchiveNews::Body {
                    asker,
                    decree,
                    value,
                    body: batch.body().clone(),
                })
            }
        }
    }

    /// A decree above what the journal of a node may have pruned.
    fn learned_by(&self, node: NodeId, decree: Decree) -> Option<&Batch> {
        let host = &self.hosts[usize::from(node.0)];
        if decree <= host.covered() {
            return None;
        }
        let mut records = host.disk.records().iter().rev();
        records.find_map(|record| match record {
            OwnedRecord::Learned { decree: of, batch } if *of == decree => Some(batch),
            _ => None,
        })
    }
}
