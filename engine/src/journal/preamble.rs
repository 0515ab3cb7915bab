//! What every segment begins with: the newest record of each kind of which only the newest counts, so that older segments can
//! be removed whole.
//!
//! ```text
//! born u8 | pruned decree u64 | count u32 | (seq u64 | kind u8 | length u32 | payload) …     ascending by seq
//! ```
//!
//! The preamble of the first segment says whether the node was born with it: only `testnet` writes that. A journal whose
//! node was not born with it belongs to one that has lost its disk (PROTOCOL.md section 5.5). The payloads are those of
//! [`super::record`].

use crate::types::Decree;

/// Most kinds of which only the newest record counts; a preamble with more is damaged.
const SINGLES_MAX: usize = 64;

/// What a preamble says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preamble {
    /// Whether the node was born with this journal.
    pub born: bool,
    /// Nobody needs the decrees up to this one any more.
    pub pruned: Decree,
    /// The newest of each kind.
    pub singles: Singles,
}

/// The newest record of each kind, by the order in which they were stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Singles(Vec<Single>);

/// The newest record of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Single {
    /// The number of the record.
    pub seq: u64,
    /// Its kind.
    pub kind: u8,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Singles {
    /// Remembers a record in place of an earlier one of its kind, whose memory it takes over.
    pub fn put(&mut self, seq: u64, kind: u8, payload: &[u8]) {
        let earlier = self.0.iter().position(|single| single.kind == kind);
        let mut single = match earlier {
            Some(place) => self.0.remove(place),
            None => Single {
                seq,
                kind,
                payload: Vec::new(),
            },
        };
        single.seq = seq;
        single.payload.clear();
        single.payload.extend_from_slice(payload);
        self.0.push(single);
    }

    /// All of them, ascending by number.
    pub fn iter(&self) -> impl Iterator<Item = &Single> {
        self.0.iter()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<&Single> {
        self.0.get(place)
    }
}

impl Preamble {
    /// Appends its payload.
    ///
    /// # Panics
    /// If a record has 4 GiB.
    pub fn write(&self, out: &mut Vec<u8>) {
        let length = |bytes: usize| u32::try_from(bytes).expect("a record is far below 4 GiB");
        out.push(u8::from(self.born));
        out.extend_from_slice(&self.pruned.0.to_le_bytes());
        out.extend_from_slice(&length(self.singles.0.len()).to_le_bytes());
        for single in self.singles.iter() {
            out.extend_from_slice(&single.seq.to_le_bytes());
            out.push(single.kind);
            out.extend_from_slice(&length(single.payload.len()).to_le_bytes());
            out.extend_from_slice(&single.payload);
        }
    }

    /// Reads a payload; none if it is no preamble.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Preamble> {
        let (born, rest) = payload.split_first()?;
        let (pruned, rest) = rest.split_first_chunk()?;
        let (count, mut rest) = rest.split_first_chunk()?;
        let count = u32::from_le_bytes(*count) as usize;
        if count > SINGLES_MAX || *born > 1 {
            return None;
        }
        let mut singles = Vec::new();
        for _ in 0..count {
            let (seq, after) = rest.split_first_chunk()?;
            let (kind, after) = after.split_first()?;
            let (length, after) = after.split_first_chunk()?;
            let length = u32::from_le_bytes(*length) as usize;
            let (payload, after) = after.split_at_checked(length)?;
            singles.push(Single {
                seq: u64::from_le_bytes(*seq),
                kind: *kind,
                payload: payload.to_vec(),
            });
            rest = after;
        }
        let ascending = singles.windows(2).all(|pair| pair[0].seq < pair[1].seq);
        (rest.is_empty() && ascending).then_some(Preamble {
            born: *born == 1,
            pruned: Decree(u64::from_le_bytes(*pruned)),
            singles: Singles(singles),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_kind_is_kept_in_their_order() {
        let mut preamble = Preamble {
            born: true,
            pruned: Decree(7),
            singles: Singles::default(),
        };
        for (seq, kind, payload) in [(1, 5, "first"), (2, 8, "vote"), (4, 5, "second")] {
            preamble.singles.put(seq, kind, payload.as_bytes());
        }
        let seqs: Vec<u64> = preamble.singles.iter().map(|single| single.seq).collect();
        assert_eq!(seqs, [2, 4]);
        let mut bytes = Vec::new();
        preamble.write(&mut bytes);
        assert_eq!(Preamble::read(&bytes), Some(preamble));
        for length in 0..bytes.len() {
            assert_eq!(Preamble::read(&bytes[..length]), None, "cut at {length}");
        }
        bytes.push(0);
        assert_eq!(Preamble::read(&bytes), None, "a byte too many");
    }
}
