//! Clients in a world: what they hear, and what becomes of what they do.

use twostep_engine::types::Time;
use twostep_engine::wire;
use twostep_net::pool::Body;

use super::queue::Happening;
use super::{Observed, Sight, World};
use crate::actors::clients::Saying;
use crate::checkers::{Finding, Property};
use crate::client::Act;
use crate::describe;
use crate::network::End;
use crate::trace::Kind;

impl World<'_> {
    /// Clients make no calls of their own accord any more, or do again.
    pub fn set_clients_busy(&mut self, busy: bool) {
        for client in 0..self.clients.len() {
            self.clients[client].set_busy(busy);
            self.schedule_turn(client, self.now);
        }
    }

    /// Makes a client call so many times as soon as it can.
    pub fn ask(&mut self, client: usize, calls: u64) {
        self.clients[client].ask(calls);
        self.schedule_turn(client, self.now);
    }

    pub(super) fn schedule_turn(&mut self, client: usize, at: Time) {
        if self.turns_at[client].is_none_or(|turn_at| at < turn_at) {
            self.turns_at[client] = Some(at);
            self.queue.push(at, Happening::Turn { client });
        }
    }

    pub(super) fn arrive_at_client(
        &mut self,
        from: End,
        client: usize,
        bytes: &Body,
    ) -> Result<(), Finding> {
        let End::Node(node) = from else {
            unreachable!("clients have links to nodes only");
        };
        self.trace
            .event(self.now, Kind::Arrived, 1 << 32 | client as u64, bytes);
        let pool = self.pool.clone();
        let message = match wire::decode(bytes, &pool, &self.bounds) {
            Ok(message) => message,
            // A link drops what is no message.
            Err(_) if self.is_byzantine(from) => return Ok(()),
            Err(error) => {
                return Err((
                    Property::Conduct,
                    format!("{from} sent c{client} what is no message: {error}"),
                ));
            }
        };
        if self.byzantine.contains(node) {
            self.cast.arrived(node, bytes);
        }
        self.trace.line(self.now, || {
            format!("{from} → c{client}: {}", describe::message(&message))
        });
        self.clients[client].hear(self.now, node, &message);
        self.serve(client)
    }

    pub(super) fn turn(&mut self, client: usize) -> Result<(), Finding> {
        if self.turns_at[client] != Some(self.now) {
            return Ok(());
        }
        self.turns_at[client] = None;
        self.trace.event(self.now, Kind::Turn, client as u64, &[]);
        self.clients[client].turn(self.now);
        self.serve(client)
    }

    /// Carries out what a client did, and sees to its next turn.
    pub(super) fn serve(&mut self, client: usize) -> Result<(), Finding> {
        let mut acts = std::mem::take(&mut self.acts);
        self.clients[client].take_acts(&mut acts);
        for act in acts.drain(..) {
            match act {
                Act::Send(Saying { to, bytes, bundle }) => {
                    if let Some(bundle) = &bundle {
                        self.order.submitted(&bundle.view());
                    }
                    self.trace.line(self.now, || {
                        let what = match &bundle {
                            Some(bundle) => format!("Submit {}", bundle.view().count),
                            None => "BundleSignature".to_owned(),
                        };
                        format!("c{client} says to {}: {what}", describe::nodes(to))
                    });
                    for node in to.iter() {
                        self.send(End::Client(client), End::Node(node), &bytes);
                    }
                }
                // What becomes of the calls of a liar is its own business.
                Act::Counted { .. } | Act::Nonsense { .. } if self.clients[client].is_liar() => {}
                Act::Counted {
                    decree,
                    counter,
                    value,
                } => {
                    let id = self.clients[client].id();
                    self.history.told(id, decree, counter, value)?;
                }
                Act::Committed { decree, called } => {
                    self.committed += 1;
                    self.trace.line(self.now, || {
                        format!("c{client} knows that d{decree} did its call")
                    });
                    if self.keeps_observed {
                        let what = Sight::Committed {
                            client,
                            decree,
                            called,
                        };
                        self.observed.push(Observed { at: self.now, what });
                    }
                }
                Act::Nonsense { what } => {
                    return Err((Property::ExactlyOnce, format!("c{client}: {what}")));
                }
            }
        }
        self.acts = acts;
        if let Some(deadline) = self.clients[client].deadline(self.now) {
            self.schedule_turn(client, deadline.max(Time(self.now.0 + self.plan.turn_ns)));
        }
        Ok(())
    }
}
