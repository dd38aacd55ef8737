//! Why a configuration can't run here, all reasons at once.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that doesn't work, with the nearest that does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Dotted path in the config.
    pub path: String,
    pub problem: String,
    /// What to try.
    pub remedy: String,
    pub kind: RefusalKind,
}

/// Which exit code a refusal leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// Exit code 2.
    Config,
    /// Exit code 3.
    DoesNotFit,
    /// Exit code 4.
    DeviceMissing,
    /// Exit code 5.
    Unreadable,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path, self.problem, self.remedy)
    }
}

/// All refusals of a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PlanError(pub Vec<Refusal>);

impl PlanError {
    /// The gravest kind present decides the exit code: a wrong config first.
    pub fn exit_code(&self) -> u8 {
        match self.0.iter().map(|refusal| refusal.kind).min() {
            Some(RefusalKind::DoesNotFit) => 3,
            Some(RefusalKind::DeviceMissing) => 4,
            Some(RefusalKind::Unreadable) => 5,
            Some(RefusalKind::Config) | None => 2,
        }
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        write!(f, "{}", lines.join("\n"))
    }
}
