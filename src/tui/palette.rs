//! The palette: every line of the key map, found by typing.

use super::keys::Binding;

/// The bindings whose words hold the query's letters in order, the closest first.
pub fn matching(query: &str, keys: &'static [Binding]) -> Vec<&'static Binding> {
    let query: Vec<char> = query.to_lowercase().chars().filter(|c| *c != ' ').collect();
    let mut found: Vec<(usize, usize, &'static Binding)> = keys
        .iter()
        .enumerate()
        .filter_map(|(index, binding)| Some((spread(&query, binding)?, index, binding)))
        .collect();
    found.sort_by_key(|&(spread, index, _)| (spread, index));
    found.into_iter().map(|(_, _, binding)| binding).collect()
}

/// How far apart the query's letters lie; `None` where they don't all occur in order.
fn spread(query: &[char], binding: &Binding) -> Option<usize> {
    let text = format!("{} {}", binding.words, binding.brief).to_lowercase();
    let text: Vec<char> = text.chars().collect();
    let Some(&first) = query.first() else {
        return Some(0);
    };
    let starts = text
        .iter()
        .enumerate()
        .filter(|&(_, &c)| c == first)
        .map(|(start, _)| start);
    starts
        .filter_map(|start| {
            let mut place = start;
            for &wanted in query {
                place += text.get(place..)?.iter().position(|&c| c == wanted)? + 1;
            }
            let is_word = start == 0 || text[start - 1] == ' ';
            Some((place - start) * 2 + usize::from(!is_word))
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::super::keys::KEYS;
    use super::*;

    #[test]
    fn every_action_is_in_the_palette() {
        assert_eq!(matching("", KEYS).len(), KEYS.len());
    }

    #[test]
    fn letters_in_order_find_the_closest_first() {
        let found = matching("kill", KEYS);
        assert_eq!(found[0].twin, "capstan kill RUN");
        assert!(matching("zzzz", KEYS).is_empty());
    }
}
