//! What the order loop has for the lanes: all messages of one of its turns, encoded once, shared by the lanes that own links they are for.

use std::ops::Range;
use std::sync::Arc;

use twostep_net::packet::GAP_BYTES_MIN;
use twostep_net::pool::Body;
use twostep_net::{LinkId, Net, SendOutcome};

use crate::machine::To;
use crate::message::Message;
use crate::node::effects::Links;
use crate::types::{ClientId, NodeId, NodeSet, Party};
use crate::wire;

/// Outputs that are kept for reuse.
const KEPT_MAX: usize = 64;
/// How much memory one keeps. Bytes.
const KEPT_BYTES: usize = 1 << 20;

/// The messages of one turn.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    gaps: Vec<Range<usize>>,
    messages: Vec<Outgoing>,
}

#[derive(Debug)]
struct Outgoing {
    to: To,
    /// Where its bytes end in those of all.
    end: usize,
    /// The same for its gaps.
    gaps_end: usize,
    /// What follows them: a body is not copied here.
    body: Option<Body>,
}

impl Output {
    fn push(&mut self, to: To, message: &Message<'_>) {
        let start = self.bytes.len();
        let rest = wire::encode_head(message, &mut self.bytes);
        let head = self.bytes.len() - start;
        wire::gaps(message, head, GAP_BYTES_MIN, &mut self.gaps);
        let body = match message {
            Message::Propose { body, .. } | Message::Fetched { body, .. } => Some(body.clone()),
            _ => {
                self.bytes.extend_from_slice(rest);
                None
            }
        };
        self.messages.push(Outgoing {
            to,
            end: self.bytes.len(),
            gaps_end: self.gaps.len(),
            body,
        });
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.gaps.clear();
        self.messages.clear();
    }

    /// The messages in order.
    pub fn messages(&self) -> impl Iterator<Item = Written<'_>> {
        let (mut start, mut gaps_start) = (0, 0);
        self.messages.iter().map(move |message| {
            let head = &self.bytes[start..message.end];
            let gaps = &self.gaps[gaps_start..message.gaps_end];
            (start, gaps_start) = (message.end, message.gaps_end);
            let body = message.body.as_deref().unwrap_or_default();
            Written {
                to: message.to,
                parts: [head, body],
                gaps,
            }
        })
    }
}

/// One message of an output.
pub(super) struct Written<'a> {
    /// For whom.
    pub to: To,
    parts: [&'a [u8]; 2],
    gaps: &'a [Range<usize>],
}

impl Written<'_> {
    /// Queues it on a link.
    pub fn send(&self, net: &mut Net, link: LinkId) -> SendOutcome {
        net.send_gapped(link, &self.parts, self.gaps)
    }
}

/// Which lane has the links to whom.
#[derive(Debug)]
pub(super) struct LinkTable {
    /// By lane: the nodes that it has a link to.
    nodes: Vec<NodeSet>,
    node_links: Vec<(NodeId, usize, LinkId)>,
    client_links: std::collections::BTreeMap<ClientId, Vec<(usize, LinkId)>>,
}

impl LinkTable {
    pub fn new(lanes: usize) -> LinkTable {
        LinkTable {
            nodes: vec![NodeSet::EMPTY; lanes],
            node_links: Vec::new(),
            client_links: std::collections::BTreeMap::new(),
        }
    }

    /// A link is up. Returns the links of other lanes to the same node, whose place it takes.
    pub fn up(&mut self, lane: usize, link: LinkId, party: Party) -> Vec<(usize, LinkId)> {
        match party {
            Party::Client(client) => {
                self.client_links
                    .entry(client)
                    .or_default()
                    .push((lane, link));
                Vec::new()
            }
            Party::Node(node) => {
                let older = self.node_links.iter();
                let older = older
                    .filter(|(one, other, _)| *one == node && *other != lane)
                    .map(|(_, lane, link)| (*lane, *link))
                    .collect();
                self.node_links.push((node, lane, link));
                self.nodes[lane].insert(node);
                older
            }
        }
    }

    /// A link is up no more.
    pub fn down(&mut self, lane: usize, link: LinkId, party: Party) {
        match party {
            Party::Client(client) => {
                if let Some(links) = self.client_links.get_mut(&client) {
                    links.retain(|one| *one != (lane, link));
                    if links.is_empty() {
                        self.client_links.remove(&client);
                    }
                }
            }
            Party::Node(node) => {
                self.node_links.retain(|one| *one != (node, lane, link));
                let still =
                    |(one, other, _): &(NodeId, usize, LinkId)| (*one, *other) == (node, lane);
                if !self.node_links.iter().any(still) {
                    self.nodes[lane].remove(node);
                }
            }
        }
    }

    /// The lanes that have links for this message, one bit each.
    fn lanes(&self, to: To) -> u64 {
        let bit = |lane: usize| 1 << lane;
        match to {
            To::Nodes(wanted) => {
                let with = self.nodes.iter().enumerate();
                let with = with.filter(|(_, nodes)| wanted.minus(**nodes) != wanted);
                with.map(|(lane, _)| bit(lane)).sum()
            }
            To::Client(client) => {
                let links = self.client_links.get(&client).into_iter().flatten();
                links.fold(0, |lanes, (lane, _)| lanes | bit(*lane))
            }
        }
    }
}

/// Collects the messages of a turn for the lanes.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    current: Arc<Output>,
    /// The lanes that it is for, one bit each.
    lanes: u64,
    /// Those that lanes may still be reading.
    kept: Vec<Arc<Output>>,
}

impl Outputs {
    /// A view that sends by `table`.
    pub fn router<'a>(&'a mut self, table: &'a LinkTable) -> Router<'a> {
        Router {
            outputs: self,
            table,
        }
    }

    /// The messages of the turn, if there are any, with the lanes that they are for.
    pub fn take(&mut self) -> Option<(Arc<Output>, u64)> {
        if self.lanes == 0 {
            return None;
        }
        let lanes = std::mem::take(&mut self.lanes);
        let next = self.spare();
        let full = std::mem::replace(&mut self.current, next);
        if self.kept.len() < KEPT_MAX {
            self.kept.push(Arc::clone(&full));
        }
        Some((full, lanes))
    }

    /// An empty one that nobody else holds.
    fn spare(&mut self) -> Arc<Output> {
        let free = self
            .kept
            .iter_mut()
            .position(|output| Arc::get_mut(output).is_some());
        let Some(free) = free else {
            return Arc::default();
        };
        let mut output = self.kept.swap_remove(free);
        Arc::get_mut(&mut output)
            .expect("nobody else holds it")
            .clear();
        output
    }
}

/// Sends to the lanes.
pub(super) struct Router<'a> {
    outputs: &'a mut Outputs,
    table: &'a LinkTable,
}

impl Links for Router<'_> {
    fn send(&mut self, to: To, message: &Message<'_>) {
        let lanes = self.table.lanes(to);
        if lanes != 0 {
            self.outputs.lanes |= lanes;
            Arc::get_mut(&mut self.outputs.current)
                .expect("the current output is shared with nobody")
                .push(to, message);
        }
    }
}
