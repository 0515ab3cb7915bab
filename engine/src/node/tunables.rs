//! Everything that a node may choose for itself, defined once: the TOML key, the `TWOSTEP_*` variable and the flag
//! of a tunable come from its one line in the table below.

use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use twostep_net::DriverChoice;

use crate::configuration::{Limits, Tuning};
use crate::journal::faults::DiskFaults;
use crate::journal::segment::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_BYTES_USUAL};
use crate::node::lanes::LANES_MAX;

/// One line per tunable: name, type, default, unit in `--help`, meaning.
macro_rules! tunables {
    ($($name:ident: $type:ty = $default:expr, $unit:literal, $help:literal;)*) => {
        /// What a node may choose for itself; see [`TUNABLES`] for flags, variables and keys.
        #[derive(Clone, Debug, PartialEq)]
        pub struct NodeOptions {
            $(#[doc = $help] pub $name: $type,)*
        }

        impl Default for NodeOptions {
            fn default() -> NodeOptions {
                NodeOptions { $($name: $default,)* }
            }
        }

        /// The table of all tunables.
        pub const TUNABLES: &[Tunable] = &[
            $(Tunable {
                key: stringify!($name),
                unit: $unit,
                help: $help,
                show: |options| options.$name.show(),
                set: |options, text| {
                    options.$name = Setting::read(text)?;
                    Ok(())
                },
            },)*
        ];
    };
}

tunables! {
    listen: Option<SocketAddr> = None, "ADDR", "Address to listen on for peers and clients; its address in the cluster file if not given";
    t0_ms: u64 = 500, "MS", "T0, the unit of every time-out and retransmission; about ten round trips of the network";
    in_flight: u64 = 16, "DECREES", "Decrees that the leader proposes before f+1 learners acknowledged the first of them";
    waiting_bundles: usize = 16_384, "BUNDLES", "Bundles that may wait at the leader; beyond it clients are told `busy`";
    waiting_bytes: usize = 64 << 20, "BYTES", "Bytes of bundles that may wait at the leader";
    log_decrees: usize = 1 << 20, "DECREES", "Decrees that a learner keeps for others to pull, beside those that two certified snapshots do not hold";
    log_bytes: usize = 64 << 20, "BYTES", "Bytes of bodies that a learner keeps in memory for others to pull; twice as many while others catch up";
    snapshot_bytes: usize = 1 << 30, "BYTES", "Bytes of snapshots that a learner keeps in memory for others; it signs and serves none that do not fit";
    pool_bytes: usize = 512 << 20, "BYTES", "Free buffers that the node keeps for reuse; at least the window times the largest body";
    state_machine: StateMachineKind = StateMachineKind::KeyValue, "NAME", "What is replicated: `key-value`, or `null`, which does nothing (for measurements)";
    state: StateForm = StateForm::Memory, "FORM", "Where the key-value store has its state: `memory`, or `disk`, a database in the node's folder, for states larger than the memory; every start makes it anew";
    state_cache_bytes: usize = 64 << 20, "BYTES", "With state on disk: memory for pages of its database";
    session_table: bool = true, "BOOL", "Execute a request once however often it is ordered; `false` shows what happens without, at every node or at none";
    durability: Durability = Durability::Sync, "MODE", "`sync`: what a node says rests on records in its journal that are synced before, so it may crash at any time; `memory` (unless said otherwise in dev and bench): nothing is kept on disk, so a node that starts again has lost its disk, and a power cut counts as a Byzantine fault of every node that it hits";
    journal_segment_bytes: u64 = SEGMENT_BYTES_USUAL, "BYTES", "Length of the journal's files, of which the first are smaller; one is made ahead";
    journal_quota_bytes: u64 = 0, "BYTES", "Most bytes that the journal's files may take: beyond it the node behaves as with a full disk, and it warns early; 0 for as many as there is room for";
    disk_faults: StartFaults = StartFaults::default(), "NAMES", "What is wrong with the journal's disk from the start, such as `lose-unsynced`, after which the end of the process is a power cut; only with `faults`, for tests";
    driver: DriverChoice = DriverChoice::Auto, "NAME", "What moves the bytes: `mio`, `uring` (mio where io_uring is refused, and the log says why), or `auto`, which measured best";
    spin_us: u64 = 0, "US", "Look for work so long before sleeping; only where every node has a core of its own";
    busy_poll: bool = false, "BOOL", "Never sleep; only where every node has a core of its own";
    lanes: usize = 1, "N", "Loops that share the node's links, besides which one orders and one executes: N + 2 busy threads; 1 does everything in one loop, which is best below three cores per node";
    pin: Cores = Cores::default(), "CORES", "Pin the loops to these cores, such as `2` or `0,4-7`: the lanes in turn, then the one that orders, then the one that executes; not pinned if not given";
    faults: bool = false, "BOOL", "Let the control socket inject faults (`fault` requests): for tests only";
    log_filter: String = "info".to_owned(), "FILTER", "What is logged, as a filter of the tracing crate, for example `warn,twostep_net=debug`";
}

/// Numbers of cores are below this: a flag must not make a long list.
const CORES_MAX: usize = 1024;

/// One tunable: how it is called, what it means, how it is set.
pub struct Tunable {
    /// The key in the TOML file; flag and variable are made from it.
    pub key: &'static str,
    /// The unit or kind of its value, for `--help`.
    pub unit: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Its value as text.
    pub show: fn(&NodeOptions) -> String,
    /// Sets it from text; the error says what was expected.
    pub set: fn(&mut NodeOptions, &str) -> Result<(), String>,
}

impl Tunable {
    /// The flag without its dashes: `t0-ms`.
    #[must_use]
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// The environment variable: `TWOSTEP_T0_MS`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("TWOSTEP_{}", self.key.to_uppercase())
    }

    /// The tunable with this key.
    #[must_use]
    pub fn named(key: &str) -> Option<&'static Tunable> {
        TUNABLES.iter().find(|tunable| tunable.key == key)
    }

    /// Its default as text; empty if there is none.
    #[must_use]
    pub fn default_text(&self) -> String {
        (self.show)(&NodeOptions::default())
    }
}

/// The state machines that the `twostep` command has on board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateMachineKind {
    /// The key-value store.
    KeyValue,
    /// Does nothing, answers with an empty reply.
    Null,
}

/// Where the key-value store has its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateForm {
    /// In memory.
    Memory,
    /// In a database in the node's folder.
    Disk,
}

/// Cores of this machine, in the order in which loops are pinned to them; loops beyond the last begin anew with the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cores(Vec<usize>);

impl Cores {
    /// The core of the loop with this number; none if loops are not pinned.
    #[must_use]
    pub fn of(&self, number: usize) -> Option<usize> {
        self.0.get(number.checked_rem(self.0.len())?).copied()
    }
}

/// What survives a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Everything that the node has said.
    Sync,
    /// Nothing.
    Memory,
}

/// Faults of the journal's disk that are there when a node starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartFaults(pub DiskFaults);

impl NodeOptions {
    /// The part that the replica takes.
    #[must_use]
    pub fn tuning(&self) -> Tuning {
        Tuning {
            t0: Duration::from_millis(self.t0_ms),
            in_flight_max: self.in_flight,
            waiting_bundles_max: self.waiting_bundles,
            waiting_bytes_max: self.waiting_bytes,
            log_decrees_max: self.log_decrees,
            log_bytes_max: self.log_bytes,
        }
    }

    /// Checks the bounds, also against the limits that the cluster shares.
    ///
    /// # Errors
    /// Names the key, its bound and what to do.
    pub fn check(&self, limits: &Limits) -> Result<(), String> {
        let window = usize::try_from(limits.window).unwrap_or(usize::MAX);
        let bodies = window.saturating_mul(limits.body_bytes_max as usize);
        let body = limits.body_bytes_max as usize;
        within("t0_ms", self.t0_ms, 5, 3_600_000)?;
        within("in_flight", self.in_flight, 1, limits.window)?;
        within("waiting_bundles", self.waiting_bundles, 1, 1 << 24)?;
        within("waiting_bytes", self.waiting_bytes, body, 1 << 40)?;
        within("log_decrees", self.log_decrees, window, 1 << 30)?;
        within("log_bytes", self.log_bytes, body, 1 << 44)?;
        within("spin_us", self.spin_us, 0, 10_000)?;
        within("lanes", self.lanes, 1, LANES_MAX)?;
        within(
            "journal_segment_bytes",
            self.journal_segment_bytes,
            SEGMENT_BYTES_MIN,
            SEGMENT_BYTES_MAX / 4,
        )?;
        within(
            "state_cache_bytes",
            self.state_cache_bytes,
            1 << 20,
            1 << 40,
        )?;
        if self.state == StateForm::Disk && self.state_machine != StateMachineKind::KeyValue {
            return Err("state = disk: only the key-value store has a form on disk".to_owned());
        }
        if self.disk_faults != StartFaults::default() && !self.faults {
            return Err("disk_faults: only with faults = true, for tests".to_owned());
        }
        if self.pool_bytes < bodies {
            return Err(format!(
                "pool_bytes = {} is below {bodies}, the {window} open decrees times the largest body of {body} bytes; \
                 raise it, or make a cluster with a smaller window or body_bytes_max",
                self.pool_bytes
            ));
        }
        Ok(())
    }
}

fn within<T: PartialOrd + Display + Copy>(
    key: &str,
    value: T,
    least: T,
    most: T,
) -> Result<(), String> {
    if value < least || value > most {
        return Err(format!("{key} = {value}: expected {least} to {most}"));
    }
    Ok(())
}

/// A value that has a form as text.
trait Setting: Sized {
    fn read(text: &str) -> Result<Self, String>;
    fn show(&self) -> String;
}

macro_rules! plain_settings {
    ($($type:ty: $expected:literal;)*) => {
        $(impl Setting for $type {
            fn read(text: &str) -> Result<Self, String> {
                <$type>::from_str(text).map_err(|_| format!("expected {}, found \"{text}\"", $expected))
            }
            fn show(&self) -> String {
                self.to_string()
            }
        })*
    };
}

plain_settings! {
    u64: "a whole number";
    usize: "a whole number";
    bool: "true or false";
    String: "text";
    SocketAddr: "an address such as 127.0.0.1:27100";
}

impl<T: Setting> Setting for Option<T> {
    fn read(text: &str) -> Result<Self, String> {
        T::read(text).map(Some)
    }
    fn show(&self) -> String {
        self.as_ref().map_or(String::new(), Setting::show)
    }
}

impl Setting for Cores {
    fn read(text: &str) -> Result<Self, String> {
        let expected = || format!("expected cores such as 2 or 0,4-7, found \"{text}\"");
        let number = |text: &str| {
            text.trim()
                .parse::<usize>()
                .ok()
                .filter(|core| *core < CORES_MAX)
        };
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = number(first).zip(number(last)).ok_or_else(expected)?;
            if first > last {
                return Err(expected());
            }
            cores.extend(first..=last);
        }
        Ok(Cores(cores))
    }
    fn show(&self) -> String {
        let cores: Vec<String> = self.0.iter().map(usize::to_string).collect();
        cores.join(",")
    }
}

impl Setting for StateMachineKind {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "key-value" => Ok(StateMachineKind::KeyValue),
            "null" => Ok(StateMachineKind::Null),
            _ => Err(format!("expected key-value or null, found \"{text}\"")),
        }
    }
    fn show(&self) -> String {
        match self {
            StateMachineKind::KeyValue => "key-value",
            StateMachineKind::Null => "null",
        }
        .to_owned()
    }
}

impl Display for StateForm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.show())
    }
}

impl Setting for StateForm {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "memory" => Ok(StateForm::Memory),
            "disk" => Ok(StateForm::Disk),
            _ => Err(format!("expected memory or disk, found \"{text}\"")),
        }
    }
    fn show(&self) -> String {
        match self {
            StateForm::Memory => "memory",
            StateForm::Disk => "disk",
        }
        .to_owned()
    }
}

impl Setting for DriverChoice {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("expected auto, mio or uring, found \"{text}\""))
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Display for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.show())
    }
}

impl Setting for Durability {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "sync" => Ok(Durability::Sync),
            "memory" => Ok(Durability::Memory),
            _ => Err(format!("expected sync or memory, found \"{text}\"")),
        }
    }
    fn show(&self) -> String {
        match self {
            Durability::Sync => "sync",
            Durability::Memory => "memory",
        }
        .to_owned()
    }
}

impl Setting for StartFaults {
    fn read(text: &str) -> Result<Self, String> {
        let mut faults = DiskFaults::default();
        for name in text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            let known = DiskFaults::SWITCHES
                .iter()
                .find(|(known, _)| *known == name);
            let Some((_, switch)) = known else {
                let known: Vec<&str> = DiskFaults::SWITCHES
                    .iter()
                    .map(|(known, _)| *known)
                    .collect();
                return Err(format!(
                    "expected some of {}, found \"{name}\"",
                    known.join(", ")
                ));
            };
            *switch(&mut faults) = true;
        }
        Ok(StartFaults(faults))
    }
    fn show(&self) -> String {
        let mut faults = self.0;
        let named = DiskFaults::SWITCHES
            .iter()
            .filter(|(_, switch)| *switch(&mut faults));
        let names: Vec<&str> = named.map(|(name, _)| *name).collect();
        names.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_reads_back_and_passes_the_check() {
        let mut options = NodeOptions::default();
        for tunable in TUNABLES {
            let text = tunable.default_text();
            if !text.is_empty() {
                (tunable.set)(&mut options, &text)
                    .unwrap_or_else(|error| panic!("{}: {error}", tunable.key));
            }
        }
        assert_eq!(options, NodeOptions::default());
        options.check(&Limits::default()).unwrap();
        assert_eq!(
            options.tuning(),
            Tuning::default(),
            "one default for library and command"
        );
    }

    #[test]
    fn cores_are_given_one_by_one_and_in_ranges() {
        let cores = Cores::read("2, 4-6").unwrap();
        assert_eq!(cores.show(), "2,4,5,6");
        assert_eq!(Cores::read(&cores.show()), Ok(cores.clone()));
        let of = |number| cores.of(number);
        assert_eq!([of(0), of(3), of(4)], [Some(2), Some(6), Some(2)]);
        assert_eq!(Cores::default().of(0), None);
        for bad in ["", "x", "3-2", "1,", "0-4000000000", "-1"] {
            let why = Cores::read(bad).unwrap_err();
            assert!(why.starts_with("expected cores such as"), "{bad}: {why}");
        }
    }

    #[test]
    fn only_the_key_value_store_has_a_form_on_disk() {
        let mut options = NodeOptions {
            state: StateForm::read("disk").unwrap(),
            ..NodeOptions::default()
        };
        options.check(&Limits::default()).unwrap();
        options.state_machine = StateMachineKind::Null;
        let why = options.check(&Limits::default()).unwrap_err();
        assert!(
            why.starts_with("state = disk: only the key-value store"),
            "{why}"
        );
        let why = StateForm::read("tape").unwrap_err();
        assert_eq!(why, "expected memory or disk, found \"tape\"");
    }

    #[test]
    fn disk_faults_are_named_and_need_leave() {
        let faults = StartFaults::read("lose-unsynced, told-early").unwrap();
        assert_eq!(faults.show(), "lose-unsynced,told-early");
        assert_eq!(StartFaults::read(&faults.show()), Ok(faults));
        let why = StartFaults::read("lose").unwrap_err();
        assert!(why.starts_with("expected some of lose-unsynced,"), "{why}");
        let mut options = NodeOptions {
            disk_faults: faults,
            ..NodeOptions::default()
        };
        let why = options.check(&Limits::default()).unwrap_err();
        assert!(why.contains("only with faults = true"), "{why}");
        options.faults = true;
        options.check(&Limits::default()).unwrap();
    }

    #[test]
    fn keys_flags_and_variables_are_one_definition() {
        let t0 = Tunable::named("t0_ms").unwrap();
        assert_eq!(
            (t0.flag().as_str(), t0.variable().as_str()),
            ("t0-ms", "TWOSTEP_T0_MS")
        );
        let mut options = NodeOptions::default();
        (t0.set)(&mut options, "250").unwrap();
        assert_eq!(options.t0_ms, 250);
        assert_eq!(
            (t0.set)(&mut options, "soon").unwrap_err(),
            "expected a whole number, found \"soon\""
        );
    }

    #[test]
    fn bounds_name_the_key() {
        let check = |options: &NodeOptions| options.check(&Limits::default()).unwrap_err();
        let options = NodeOptions {
            in_flight: 0,
            ..NodeOptions::default()
        };
        assert_eq!(check(&options), "in_flight = 0: expected 1 to 256");
        let options = NodeOptions {
            pool_bytes: 1 << 20,
            ..NodeOptions::default()
        };
        assert!(
            check(&options)
                .starts_with("pool_bytes = 1048576 is below 268435456, the 256 open decrees")
        );
    }
}
