//! The kernel's own count of processes that it killed for memory.

use std::path::{Path, PathBuf};

use crate::base::read::{self, Bound};

/// Kills for memory so far, machine-wide and in this process's cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OomKills {
    machine: u64,
    cgroup: u64,
}

impl OomKills {
    /// Reads the counters; one that can't be read counts as 0.
    pub fn count() -> Self {
        let machine = read::text(Path::new("/proc/vmstat"), Bound::TOLD).unwrap_or_default();
        let cgroup = cgroup_events().and_then(|path| read::text(&path, Bound::TOLD).ok());
        Self {
            machine: field(&machine, "oom_kill"),
            cgroup: field(&cgroup.unwrap_or_default(), "oom_kill"),
        }
    }

    /// Whether a kill was counted since `before`.
    pub const fn rose_since(self, before: Self) -> bool {
        self.machine > before.machine || self.cgroup > before.cgroup
    }
}

fn cgroup_events() -> Option<PathBuf> {
    let groups = read::text(Path::new("/proc/self/cgroup"), Bound::TOLD).ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(
        PathBuf::from("/sys/fs/cgroup")
            .join(own)
            .join("memory.events"),
    )
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "oom 7\noom_kill 3\noom_group_kill 9\n";
        assert_eq!(field(text, "oom_kill"), 3);
        assert_eq!(field(text, "oom_kil"), 0);
    }

    #[test]
    fn either_counter_counts() {
        let before = OomKills {
            machine: 4,
            cgroup: 1,
        };
        assert!(
            OomKills {
                machine: 4,
                cgroup: 2
            }
            .rose_since(before)
        );
        assert!(
            OomKills {
                machine: 5,
                cgroup: 1
            }
            .rose_since(before)
        );
        assert!(!before.rose_since(before));
    }
}
