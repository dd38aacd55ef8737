//! Which GPUs the libtorch in use can compute on.

use std::fmt;

use super::Gpu;

/// Lowest compute capability that libtorch 2.11 has kernels for.
const OLDEST_CAPABILITY: [u32; 2] = [7, 5];
/// The libtorch that this program was built with: `2.11.0`, `2.11.0+cu130`, `2.11.0+cu126`.
const LIBTORCH: &str = env!("CAPSTAN_LIBTORCH");

/// Why a card can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// libtorch has no kernels for it.
    TooOld([u32; 2]),
    /// CUDA does not start with its driver.
    Driver { found: String, least: u32 },
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooOld([major, minor]) => {
                let [least_major, least_minor] = OLDEST_CAPABILITY;
                write!(
                    f,
                    "its sm_{major}{minor} is older than sm_{least_major}{least_minor}, the oldest that libtorch 2.11 has \
                     kernels for"
                )
            }
            Self::Driver { found, least } => write!(
                f,
                "its driver {found} is older than {least}, the oldest that libtorch's CUDA starts with"
            ),
        }
    }
}

impl Gpu {
    /// Why it can't be used; `None` where it can. A driver that does not tell its version is not doubted.
    pub fn unusable(&self) -> Option<Unusable> {
        if self.compute_capability < OLDEST_CAPABILITY {
            return Some(Unusable::TooOld(self.compute_capability));
        }
        let least = least_driver(LIBTORCH);
        let branch = self.driver.split('.').next().unwrap_or_default();
        let is_older = branch.parse().is_ok_and(|branch: u32| branch < least);
        is_older.then(|| Unusable::Driver {
            found: self.driver.clone(),
            least,
        })
    }
}

/// The driver's branch that libtorch's CUDA needs at least: of CUDA 13, and of any CUDA 12 (CUDA's minor version
/// compatibility). PyPI's libtorch 2.11 has CUDA 13.
fn least_driver(libtorch: &str) -> u32 {
    match libtorch.split_once("+cu12") {
        Some(_) => 525,
        None => 580,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hw::recorded;

    #[test]
    fn cards_below_libtorchs_bounds_cannot_be_used() {
        let card = recorded::machine("geforce-4").machine.gpus.remove(0);
        let with = |driver: &str, compute_capability| Gpu {
            driver: driver.to_owned(),
            compute_capability,
            ..card.clone()
        };
        let least = least_driver(LIBTORCH);
        let old = format!("{}.183.01", least - 1);
        for (driver, capability, is_usable) in [
            (format!("{least}.65.06"), [7, 5], true),
            (old.clone(), [8, 9], false),
            ("unknown".to_owned(), [8, 9], true),
            (format!("{least}.65.06"), [7, 0], false),
        ] {
            let gpu = with(&driver, capability);
            assert_eq!(gpu.unusable().is_none(), is_usable, "{gpu:?}");
        }
        let reason = with(&old, [8, 9]).unusable().expect("too old").to_string();
        assert!(reason.contains(&old) && reason.contains(&least.to_string()));
    }

    #[test]
    fn the_driver_that_is_needed_goes_by_libtorchs_cuda() {
        for (libtorch, least) in [
            ("2.11.0", 580),
            ("2.11.0+cu130", 580),
            ("2.11.0+cpu", 580),
            ("2.11.0+cu126", 525),
            ("2.11.0+cu128", 525),
        ] {
            assert_eq!(least_driver(libtorch), least, "{libtorch}");
        }
    }
}
