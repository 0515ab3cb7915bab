//! Lines for people, and single keys where somebody sits at a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::terminal;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Kill the leader.
    KillLeader,
    /// Kill any node.
    KillNode,
    /// Let the leader equivocate.
    Equivocate,
    /// Let an acceptor vote twice.
    VoteTwice,
    /// Part the nodes into two halves.
    Partition,
    /// Join them again, end lies, start a killed node again.
    Heal,
    /// End.
    Quit,
}

/// Where lines go. In a terminal, keys come one by one until it is dropped.
pub struct Screen {
    keys: bool,
}

impl Screen {
    /// Takes the terminal's keys, if there is a terminal and they are wanted.
    pub fn open(wanted: bool) -> Screen {
        let keys = wanted
            && io::stdin().is_terminal()
            && io::stdout().is_terminal()
            && terminal::enable_raw_mode().is_ok();
        if keys {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                // So that the report of the panic is readable.
                let _ = terminal::disable_raw_mode();
                report(panic);
            }));
        }
        Screen { keys }
    }

    /// Whether keys come one by one.
    pub fn has_keys(&self) -> bool {
        self.keys
    }

    /// Prints a line. A reader that went away is no reason to end.
    pub fn line(&self, text: &str) {
        let end = if self.keys { "\r\n" } else { "\n" };
        let text = if self.keys {
            text.replace('\n', "\r\n")
        } else {
            text.to_owned()
        };
        let mut out = io::stdout().lock();
        let _ = write!(out, "{text}{end}").and_then(|()| out.flush());
    }

    /// The next key that means something, if one comes within `patience`.
    pub fn key(&self, patience: Duration) -> Option<Key> {
        if !self.keys {
            std::thread::sleep(patience);
            return None;
        }
        if !event::poll(patience).ok()? {
            return None;
        }
        let Ok(Event::Key(key)) = event::read() else {
            return None;
        };
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            _ if key.kind == KeyEventKind::Release => None,
            // Raw mode takes the signal away from Ctrl-C.
            KeyCode::Char('c' | 'd') if control => Some(Key::Quit),
            KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
            KeyCode::Char('k') => Some(Key::KillLeader),
            KeyCode::Char('n') => Some(Key::KillNode),
            KeyCode::Char('e') => Some(Key::Equivocate),
            KeyCode::Char('l') => Some(Key::VoteTwice),
            KeyCode::Char('p') => Some(Key::Partition),
            KeyCode::Char('h') => Some(Key::Heal),
            _ => None,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.keys {
            // There is nobody to tell of an error.
            let _ = terminal::disable_raw_mode();
        }
    }
}
