//! Ctrl-C: the first one asks for an orderly end, the second one ends at once but leaves nothing behind either.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The status of a process that Ctrl-C ended at once.
const EXIT_INTERRUPTED: i32 = 130;
/// Signals within this time of the first one are one key press: a terminal and a launcher may both send one.
const ONE_PRESS: Duration = Duration::from_millis(300);

/// Whether the user wants the end, and what must not be left behind then. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    raised: Arc<AtomicBool>,
    leftovers: Arc<Mutex<Leftovers>>,
}

/// What an immediate end has to clear away.
#[derive(Debug, Default)]
struct Leftovers {
    processes: Vec<u32>,
    folders: Vec<PathBuf>,
}

impl Interrupt {
    /// Takes the signals of this process from now on, also where the launcher had them ignored.
    pub fn install() -> Result<Interrupt> {
        let interrupt = Interrupt::default();
        let seen = interrupt.clone();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot take signals")?;
        let watch = move || {
            let mut first = None;
            for _ in signals.forever() {
                let first = *first.get_or_insert_with(Instant::now);
                if seen.is_raised() && first.elapsed() > ONE_PRESS {
                    seen.end_at_once();
                }
                seen.raise();
            }
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(watch)?;
        Ok(interrupt)
    }

    /// Asks for the end.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
    }

    /// Whether the end was asked for.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// A child process is running.
    pub fn add_process(&self, pid: u32) {
        self.with_leftovers(|leftovers| leftovers.processes.push(pid));
    }

    /// A child process was waited for; its number may be another's from now on.
    pub fn remove_process(&self, pid: u32) {
        self.with_leftovers(|leftovers| leftovers.processes.retain(|one| *one != pid));
    }

    /// A temporary folder is there.
    pub fn add_folder(&self, folder: &Path) {
        self.with_leftovers(|leftovers| leftovers.folders.push(folder.to_owned()));
    }

    /// It will be gone soon.
    pub fn remove_folder(&self, folder: &Path) {
        self.with_leftovers(|leftovers| leftovers.folders.retain(|one| one != folder));
    }

    fn with_leftovers<T>(&self, with: impl FnOnce(&mut Leftovers) -> T) -> T {
        // A panic elsewhere must not keep us from clearing away.
        with(
            &mut self
                .leftovers
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn end_at_once(&self) -> ! {
        self.with_leftovers(|leftovers| {
            for pid in leftovers.processes.drain(..) {
                if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                    // It may have ended already.
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            for folder in leftovers.folders.drain(..) {
                // Dying processes may still write; what then remains is the best that can be done.
                for _ in 0..20 {
                    if std::fs::remove_dir_all(&folder).is_ok() {
                        break;
                    }
                    thread::sleep(Duration::from_millis(10));
                }
            }
        });
        // Raw mode would outlive us.
        let _ = crossterm::terminal::disable_raw_mode();
        std::process::exit(EXIT_INTERRUPTED)
    }
}
