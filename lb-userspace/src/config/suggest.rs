//! Which known name was probably meant.

use super::limits::MAX_NAME_BYTES;

/// Bytes of a name that is compared; a domain's path is three names and two slashes.
const MAX_COMPARED_BYTES: usize = 3 * MAX_NAME_BYTES + 2;

/// The known name that is nearest to `given`, if one is near enough to be a slip: other case, the end of a path
/// (`r1` for `west/w1/r1`), or at most one edit per three characters. The first of equally near ones.
pub(super) fn nearest<'n>(given: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if given.is_empty() || given.len() > MAX_COMPARED_BYTES {
        return None;
    }
    let limit = (given.chars().count() / 3).max(1);
    let scored = known.filter_map(|name| Some((distance(given, name, limit)?, name)));
    scored.min_by_key(|&(distance, _)| distance).map(|(_, name)| name)
}

/// Edits from one name to the other, if at most `limit`.
fn distance(given: &str, name: &str, limit: usize) -> Option<usize> {
    if given.eq_ignore_ascii_case(name) {
        return Some(0);
    }
    if name.strip_suffix(given).is_some_and(|head| head.ends_with('/')) {
        return Some(1);
    }
    if name.len() > MAX_COMPARED_BYTES || name.chars().count().abs_diff(given.chars().count()) > limit {
        return None;
    }
    let edits = edits(&given.to_lowercase(), &name.to_lowercase());
    // A distance as long as the name itself means that nothing of it was kept.
    (edits <= limit && edits < name.chars().count()).then_some(edits)
}

/// Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substituted = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substituted.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_counts_each_kind_once() {
        assert_eq!(edits("rack", "rack"), 0);
        assert_eq!(edits("rack", "rak"), 1);
        assert_eq!(edits("rack", "crack"), 1);
        assert_eq!(edits("rack", "ruck"), 1);
        assert_eq!(edits("rack", "rcak"), 1);
        assert_eq!(edits("", "rack"), 4);
    }

    #[test]
    fn nearest_takes_slips_and_nothing_else() {
        let known = ["west/w1/r1", "west/w1/r2", "east/e1/r7"];
        assert_eq!(nearest("west/w1/r9", known.into_iter()), Some("west/w1/r1"));
        assert_eq!(nearest("WEST/W1/R2", known.into_iter()), Some("west/w1/r2"));
        assert_eq!(nearest("r7", known.into_iter()), Some("east/e1/r7"));
        assert_eq!(nearest("wst/w1/r2", known.into_iter()), Some("west/w1/r2"));
        assert_eq!(nearest("north", known.into_iter()), None);
        assert_eq!(nearest("", known.into_iter()), None);
        assert_eq!(nearest("x", ["y"].into_iter()), None);
    }
}
