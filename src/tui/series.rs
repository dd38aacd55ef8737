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
    /// Where values were no numbers, which no curve can show; the first of them.
    non_finite: Vec<f64>,
}

impl Series {
    /// Adds a value; x grows, or [`Series::cut`] comes first.
    pub fn push(&mut self, x: f64, value: f64) {
        self.last = Some(value);
        if !value.is_finite() {
            if self.non_finite.len() < MOST {
                self.non_finite.push(x);
            }
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
        self.non_finite.retain(|&at| at <= x);
        if let Some(bucket) = self.buckets.last_mut() {
            bucket.to = bucket.to.min(x);
        }
    }

    /// The latest value, also one that is no number.
    pub fn last(&self) -> Option<f64> {
        self.last
    }

    /// How many values were no numbers, as far as they are counted.
    pub fn non_finite(&self) -> usize {
        self.non_finite.len()
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

    /// What falls into each of the columns between two places; empty columns are left out.
    pub fn columns(&self, columns: usize, (first, last): (f64, f64)) -> Vec<Bucket> {
        let width = ((last - first) / columns.max(1) as f64).max(f64::MIN_POSITIVE);
        let column = |bucket: &Bucket| ((bucket.from - first) / width) as usize;
        let groups = self.buckets.chunk_by(|a, b| column(a) == column(b));
        groups.map(merged).collect()
    }
}

/// Two points a bucket, its extremes, in the order in which a curve goes through them.
pub fn extremes(buckets: &[Bucket]) -> Vec<(f64, f64)> {
    let mut points = Vec::new();
    buckets
        .iter()
        .for_each(|bucket| through(&mut points, bucket));
    points
}

/// The mean of each bucket.
pub fn means(buckets: &[Bucket]) -> Vec<(f64, f64)> {
    let mean = |bucket: &Bucket| (bucket.middle(), bucket.sum / bucket.count);
    buckets.iter().map(mean).collect()
}

impl Bucket {
    fn middle(&self) -> f64 {
        (self.from + self.to) / 2.0
    }
}

/// Ends at the extreme that is nearer to what came before last, so that the curve does not cross itself.
fn through(points: &mut Vec<(f64, f64)>, bucket: &Bucket) {
    let x = bucket.middle();
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
        let points = extremes(&series.columns(80, (1.0, 1e6)));
        assert!(points.len() <= 162, "{}", points.len());
        let top = points.iter().map(|&(_, y)| y).fold(0.0, f64::max);
        assert_eq!(top, 99.0);
        assert_eq!(series.span(), Some((1.0, 1_000_000.0)));
    }

    #[test]
    fn a_column_has_the_mean_of_what_falls_into_it() {
        let mut series = Series::default();
        for step in 0..100 {
            series.push(f64::from(step), f64::from(step % 2));
        }
        let middle = means(&series.columns(10, (0.0, 99.0)));
        assert!(middle.len() <= 11, "{middle:?}");
        for (_, mean) in middle {
            assert!((mean - 0.5).abs() < 0.1 || mean == 1.0, "{mean}");
        }
    }

    #[test]
    fn what_comes_again_replaces_what_was() {
        let mut series = Series::default();
        for step in 1..=10 {
            series.push(f64::from(step), 1.0);
        }
        series.push(11.0, f64::NAN);
        series.cut(4.0);
        series.push(5.0, 2.0);
        assert_eq!(series.span(), Some((1.0, 5.0)));
        assert_eq!(
            extremes(&series.columns(80, (1.0, 5.0))).last(),
            Some(&(5.0, 2.0))
        );
        assert_eq!(series.non_finite(), 0);
    }

    #[test]
    fn what_is_no_number_is_counted_and_not_drawn() {
        let mut series = Series::default();
        series.push(1.0, f64::NAN);
        series.push(2.0, f64::INFINITY);
        assert!(series.span().is_none() && series.columns(10, (1.0, 9.0)).is_empty());
        assert_eq!(series.non_finite(), 2);
        assert!(series.means(5).is_empty());
    }
}
