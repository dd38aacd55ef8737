//! A curve of any length in bounded memory, of which no spike is lost.

/// Buckets that a series keeps; above, neighbours are merged.
const MOST: usize = 4096;

/// Neighbouring values as their extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// First and last x.
    pub from: f64,
    pub to: f64,
    pub min: f64,
    pub max: f64,
    pub sum: f64,
    pub count: f64,
}

/// Values over growing x (steps), as buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    buckets: Vec<Bucket>,
    /// Values in a full bucket.
    width: f64,
    last: Option<f64>,
    /// Values that were no numbers, which no curve can show.
    pub non_finite: u64,
}

impl Series {
    /// Adds a value; x grows, or [`Series::cut`] comes first.
    pub fn push(&mut self, x: f64, value: f64) {
        self.last = Some(value);
        if !value.is_finite() {
            self.non_finite += 1;
            return;
        }
        let width = self.width.max(1.0);
        match self.buckets.last_mut() {
            Some(bucket) if bucket.count < width => {
                bucket.to = x;
                bucket.min = bucket.min.min(value);
                bucket.max = bucket.max.max(value);
                bucket.sum += value;
                bucket.count += 1.0;
            }
            _ => self.buckets.push(Bucket {
                from: x,
                to: x,
                min: value,
                max: value,
                sum: value,
                count: 1.0,
            }),
        }
        if self.buckets.len() > MOST {
            self.buckets = self.buckets.chunks(2).map(merged).collect();
            self.width = width * 2.0;
        }
    }

    /// Forgets what lies after `x`: it did not happen, and comes again.
    pub fn cut(&mut self, x: f64) {
        self.buckets.retain(|bucket| bucket.from <= x);
        if let Some(bucket) = self.buckets.last_mut() {
            bucket.to = bucket.to.min(x);
        }
    }

    /// The latest value, also one that is no number.
    pub fn last(&self) -> Option<f64> {
        self.last
    }

    /// The first and last x.
    pub fn span(&self) -> Option<(f64, f64)> {
        Some((self.buckets.first()?.from, self.buckets.last()?.to))
    }

    /// The buckets that begin at `from` or later.
    pub fn since(&self, from: f64) -> &[Bucket] {
        let first = self.buckets.partition_point(|bucket| bucket.from < from);
        &self.buckets[first..]
    }

    /// Extremes from `from` on.
    pub fn extremes(&self, from: f64) -> Option<(f64, f64)> {
        let buckets = self.since(from);
        let min = buckets.iter().map(|bucket| bucket.min).reduce(f64::min)?;
        let max = buckets.iter().map(|bucket| bucket.max).reduce(f64::max)?;
        Some((min, max))
    }

    /// The last `n` means, for a sparkline: as many neighbours together as it takes.
    pub fn means(&self, n: usize) -> Vec<f64> {
        if n == 0 || self.buckets.is_empty() {
            return Vec::new();
        }
        let size = self.buckets.len().div_ceil(n);
        let groups = self.buckets.chunks(size);
        groups
            .map(|group| {
                let sum: f64 = group.iter().map(|bucket| bucket.sum).sum();
                let count: f64 = group.iter().map(|bucket| bucket.count).sum();
                sum / count.max(1.0)
            })
            .collect()
    }

    /// Two points a column up to the one that ends at `last`: the extremes of what falls into it, in the order in which a
    /// curve goes through them.
    pub fn points(&self, columns: usize, last: f64) -> Vec<(f64, f64)> {
        let Some((first, _)) = self.span() else {
            return Vec::new();
        };
        let width = ((last - first) / columns.max(1) as f64).max(f64::MIN_POSITIVE);
        let mut points: Vec<(f64, f64)> = Vec::new();
        let mut column: Option<(usize, Bucket)> = None;
        for bucket in &self.buckets {
            let index = ((bucket.from - first) / width) as usize;
            column = match column {
                Some((at, held)) if at == index => Some((at, merged(&[held, *bucket]))),
                Some((_, held)) => {
                    through(&mut points, &held);
                    Some((index, *bucket))
                }
                None => Some((index, *bucket)),
            };
        }
        if let Some((_, held)) = column {
            through(&mut points, &held);
        }
        points
    }
}

/// Ends at the extreme that is nearer to what came before last, so that the curve does not cross itself.
fn through(points: &mut Vec<(f64, f64)>, bucket: &Bucket) {
    let x = (bucket.from + bucket.to) / 2.0;
    if bucket.min == bucket.max {
        points.push((x, bucket.min));
        return;
    }
    let before = points.last().map_or(bucket.max, |&(_, y)| y);
    let min_first = (before - bucket.min).abs() < (before - bucket.max).abs();
    let (a, b) = if min_first {
        (bucket.min, bucket.max)
    } else {
        (bucket.max, bucket.min)
    };
    points.extend([(x, a), (x, b)]);
}

fn merged(group: &[Bucket]) -> Bucket {
    let first = group[0];
    group[1..].iter().fold(first, |held, next| Bucket {
        from: held.from,
        to: next.to,
        min: held.min.min(next.min),
        max: held.max.max(next.max),
        sum: held.sum + next.sum,
        count: held.count + next.count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_survives_a_million_steps_and_eighty_columns() {
        let mut series = Series::default();
        for step in 1..=1_000_000 {
            let value = if step == 654_321 { 99.0 } else { 3.0 };
            series.push(f64::from(step), value);
        }
        assert!(series.buckets.len() <= MOST);
        let points = series.points(80, 1e6);
        assert!(points.len() <= 162, "{}", points.len());
        let top = points.iter().map(|&(_, y)| y).fold(0.0, f64::max);
        assert_eq!(top, 99.0);
        assert_eq!(series.span(), Some((1.0, 1_000_000.0)));
    }

    #[test]
    fn what_comes_again_replaces_what_was() {
        let mut series = Series::default();
        for step in 1..=10 {
            series.push(f64::from(step), 1.0);
        }
        series.cut(4.0);
        series.push(5.0, 2.0);
        assert_eq!(series.span(), Some((1.0, 5.0)));
        assert_eq!(series.points(80, 5.0).last(), Some(&(5.0, 2.0)));
    }

    #[test]
    fn what_is_no_number_is_counted_and_not_drawn() {
        let mut series = Series::default();
        series.push(1.0, f64::NAN);
        series.push(2.0, f64::INFINITY);
        assert!(series.span().is_none() && series.points(10, 9.0).is_empty());
        assert_eq!(series.non_finite, 2);
        assert!(series.means(5).is_empty());
    }
}
