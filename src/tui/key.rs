//! One key, and its name.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// A key as the table names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Ctrl(char),
    F(u8),
    Esc,
    Enter,
    Tab,
    BackTab,
    Backspace,
    Delete,
    Up,
    Down,
    Left,
    Right,
    Home,
    End,
    PageUp,
    PageDown,
}

impl Key {
    /// What the terminal reported; `None` for keys that nothing uses.
    pub fn of(event: KeyEvent) -> Option<Self> {
        let ctrl = event.modifiers.contains(KeyModifiers::CONTROL);
        // A letter with Alt is another key than the letter.
        if event.modifiers.contains(KeyModifiers::ALT) && matches!(event.code, KeyCode::Char(_)) {
            return None;
        }
        Some(match event.code {
            KeyCode::Char(c) if ctrl => Self::Ctrl(c.to_ascii_lowercase()),
            KeyCode::Char(c) => Self::Char(c),
            KeyCode::F(n) => Self::F(n),
            KeyCode::Esc => Self::Esc,
            KeyCode::Enter => Self::Enter,
            KeyCode::Tab => Self::Tab,
            KeyCode::BackTab => Self::BackTab,
            KeyCode::Backspace => Self::Backspace,
            KeyCode::Delete => Self::Delete,
            KeyCode::Up => Self::Up,
            KeyCode::Down => Self::Down,
            KeyCode::Left => Self::Left,
            KeyCode::Right => Self::Right,
            KeyCode::Home => Self::Home,
            KeyCode::End => Self::End,
            KeyCode::PageUp => Self::PageUp,
            KeyCode::PageDown => Self::PageDown,
            _ => return None,
        })
    }

    /// The key of a name, as help shows it or in plain letters.
    pub fn named(name: &str) -> Option<Self> {
        let mut characters = name.chars();
        if let (Some(c), None) = (characters.next(), characters.next()) {
            let special = SPECIAL.into_iter().find(|key| key.name() == name);
            return Some(special.unwrap_or(Self::Char(c)));
        }
        if let Some(c) = name.strip_prefix("Ctrl-") {
            let c = c.parse::<char>().ok()?.to_ascii_lowercase();
            // A terminal sends Tab, Enter or Esc for these.
            return Some(Self::Ctrl(c)).filter(|_| !['i', 'j', 'm', '['].contains(&c));
        }
        if let Some(n) = name.strip_prefix('F').and_then(|n| n.parse().ok()) {
            return Some(Self::F(n)).filter(|_| (1..=12).contains(&n));
        }
        if name == "Space" {
            return Some(Self::Char(' '));
        }
        let mut special = SPECIAL.into_iter();
        special.find(|key| key.name() == name || format!("{key:?}") == name)
    }

    /// The key as help shows it.
    pub fn name(self) -> String {
        match self {
            Self::Char(' ') => "Space".to_owned(),
            Self::Char(c) => c.to_string(),
            Self::Ctrl(c) => format!("Ctrl-{}", c.to_ascii_uppercase()),
            Self::F(n) => format!("F{n}"),
            Self::BackTab => "S-Tab".to_owned(),
            Self::Up => "↑".to_owned(),
            Self::Down => "↓".to_owned(),
            Self::Left => "←".to_owned(),
            Self::Right => "→".to_owned(),
            Self::PageUp => "PgUp".to_owned(),
            Self::PageDown => "PgDn".to_owned(),
            key => format!("{key:?}"),
        }
    }
}

/// Keys without a letter or number of their own.
const SPECIAL: [Key; 14] = [
    Key::Esc,
    Key::Enter,
    Key::Tab,
    Key::BackTab,
    Key::Backspace,
    Key::Delete,
    Key::Up,
    Key::Down,
    Key::Left,
    Key::Right,
    Key::Home,
    Key::End,
    Key::PageUp,
    Key::PageDown,
];
