//! Pods from a seed: plain functions, each a kind of day that nodes have.
//!
//! A burst reaches a node's CNI not at one instant: the scheduler binds pods one after another and the kubelet makes
//! their sandboxes side by side. Here the pods of a burst arrive [`BURST_GAP`] apart on average.

use std::time::Duration;

use crate::model::delays::Random;

/// Mean distance of the pods of one burst.
pub const BURST_GAP: Duration = Duration::from_millis(70);
/// The daemon sets of a node come with it, and need a while to be scheduled.
const FIRST_PODS: f64 = 10.0;
/// Pods of daemon sets.
const DAEMON_SETS: usize = 3;

const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;

/// One pod: it asks for an address at `start` and is deleted at `stop`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub start: Duration,
    pub stop: Duration,
}

/// For whom pods are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// How long the pods keep coming.
    pub length: Duration,
    /// Pods that the node may run at one time. More never run.
    pub capacity: u32,
    /// Addresses of one of its interfaces.
    pub slots: u32,
}

/// A kind of day.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    pub pods: fn(seed: u64, shape: Shape) -> Vec<Pod>,
}

/// All of them.
pub const ALL: [Workload; 6] = [
    Workload { name: "steady", about: "half full, 2,000 short pods a day", pods: steady },
    Workload { name: "diurnal", about: "15 % at night, 80 % by day", pods: diurnal },
    Workload { name: "burst", about: "a fifth full, bursts of 30-60 % every 45 minutes or so", pods: burst },
    Workload { name: "rolling", about: "60 % full, every two hours or so a deployment is replaced", pods: rolling },
    Workload { name: "batch", about: "a fifth full, a batch of 25-60 % at every full hour", pods: batch },
    Workload { name: "flap", about: "one interface full, and one pod more that comes and goes", pods: flap },
];

/// The workload of that name.
#[must_use]
pub fn named(name: &str) -> Option<Workload> {
    ALL.into_iter().find(|w| w.name == name)
}

/// Pods being made.
struct Maker {
    random: Random,
    shape: Shape,
    length: f64,
    pods: Vec<(f64, f64)>,
}

impl Maker {
    fn new(seed: u64, shape: Shape) -> Self {
        let mut maker =
            Self { random: Random::new(seed ^ 0x7061_6432), shape, length: shape.length.as_secs_f64(), pods: vec![] };
        maker.arrive(FIRST_PODS, DAEMON_SETS, f64::INFINITY);
        maker
    }

    /// Exponential with this mean.
    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.random.unit()).ln()
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.random.unit()
    }

    /// So many pods as this share of the node's capacity, at least one.
    fn share(&self, share: f64) -> usize {
        ((f64::from(self.shape.capacity) * share).round() as usize).max(1)
    }

    /// `count` pods from `at` on, one burst gap apart, for about `life` seconds each.
    fn arrive(&mut self, at: f64, count: usize, life: f64) {
        let mut at = at;
        for _ in 0..count {
            at += self.exponential(BURST_GAP.as_secs_f64());
            self.pods.push((at, at + life));
        }
    }

    /// Long-lived pods up to this share of the capacity, spread over the node's first minutes.
    fn fill(&mut self, share: f64) {
        for _ in 0..self.share(share).saturating_sub(DAEMON_SETS) {
            let at = self.between(20.0, 200.0);
            self.pods.push((at, f64::INFINITY));
        }
    }

    /// In order of arrival, and never more at one time than the node can run.
    fn done(mut self) -> Vec<Pod> {
        self.pods.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut running: Vec<f64> = Vec::new();
        let mut pods = Vec::with_capacity(self.pods.len());
        for (start, stop) in self.pods {
            running.retain(|end| *end > start);
            if start >= self.length || running.len() >= self.shape.capacity as usize {
                continue;
            }
            running.push(stop);
            // Those that outlive the run are deleted after it.
            let stop = stop.min(self.length + HOUR);
            pods.push(Pod {
                name: format!("pod-{}", pods.len()),
                start: Duration::from_secs_f64(start),
                stop: Duration::from_secs_f64(stop),
            });
        }
        pods
    }
}

/// Half full; short pods come at random, 2,000 a day.
#[must_use]
pub fn steady(seed: u64, shape: Shape) -> Vec<Pod> {
    let mut m = Maker::new(seed, shape);
    m.fill(0.4);
    let gap = 24.0 * HOUR / 2000.0;
    // A tenth of the capacity at one time, on average.
    let life = 0.1 * f64::from(shape.capacity) * gap;
    let mut at = 5.0 * MINUTE;
    while at < m.length {
        at += m.exponential(gap);
        let life = 10.0 + m.exponential(life);
        m.pods.push((at, at + life));
    }
    m.done()
}

/// Follows the sun: 15 % of the capacity at night, 80 % by day; pods live three hours on average.
#[must_use]
pub fn diurnal(seed: u64, shape: Shape) -> Vec<Pod> {
    let mut m = Maker::new(seed, shape);
    let life = 3.0 * HOUR;
    let mut ends: Vec<(f64, usize)> = Vec::new();
    let mut at = 2.0 * MINUTE;
    while at < m.length {
        let share = 0.475 - 0.325 * (at / (24.0 * HOUR) * std::f64::consts::TAU).cos();
        let wanted = m.share(share);
        ends.retain(|(end, _)| *end > at);
        while ends.len() + DAEMON_SETS < wanted {
            let start = at + m.between(0.0, MINUTE);
            let end = start + 5.0 * MINUTE + m.exponential(life);
            ends.push((end, m.pods.len()));
            m.pods.push((start, end));
        }
        // Scaled down: the youngest go first, as a replica set chooses.
        while ends.len() + DAEMON_SETS > wanted {
            let Some((_, place)) = ends.pop() else { break };
            let stop = at + m.between(0.0, MINUTE);
            let pod = &mut m.pods[place];
            pod.1 = pod.1.min(stop.max(pod.0 + 1.0));
        }
        at += MINUTE;
    }
    m.done()
}

/// A fifth full; bursts of 30 to 60 % of the capacity, 45 minutes apart on average, that last 5 to 15 minutes.
#[must_use]
pub fn burst(seed: u64, shape: Shape) -> Vec<Pod> {
    let mut m = Maker::new(seed, shape);
    m.fill(0.2);
    let mut at = 10.0 * MINUTE;
    loop {
        at += m.exponential(45.0 * MINUTE);
        if at >= m.length {
            return m.done();
        }
        let count = {
            let share = m.between(0.3, 0.6);
            m.share(share)
        };
        let life = m.between(5.0 * MINUTE, 15.0 * MINUTE);
        m.arrive(at, count, life);
    }
}

/// 60 % full; every two hours on average a deployment of a quarter to a half of the capacity is replaced: a quarter of it
/// new, and, when those are ready, a quarter of the old gone, until all are new.
#[must_use]
pub fn rolling(seed: u64, shape: Shape) -> Vec<Pod> {
    let mut m = Maker::new(seed, shape);
    let replicas = m.share(0.6) - DAEMON_SETS.min(m.share(0.6) - 1);
    // Where the pods of the deployment are in `pods`, oldest first.
    let mut current: std::collections::VecDeque<usize> = (0..replicas).map(|i| m.pods.len() + i).collect();
    for _ in 0..replicas {
        let at = m.between(20.0, 200.0);
        m.pods.push((at, f64::INFINITY));
    }
    let mut at = 30.0 * MINUTE;
    loop {
        at += m.exponential(2.0 * HOUR);
        if at >= m.length {
            return m.done();
        }
        let mut left = {
            let share = m.between(0.25, 0.5);
            m.share(share)
        }
        .min(replicas);
        let surge = left.div_ceil(4);
        while left > 0 {
            let step = surge.min(left);
            left -= step;
            let first = m.pods.len();
            m.arrive(at, step, f64::INFINITY);
            current.extend(first..m.pods.len());
            // Ready after a while, then as many old ones end.
            at += m.between(8.0, 20.0);
            for _ in 0..step {
                let stop = at + m.between(0.0, 2.0);
                if let Some(old) = current.pop_front() {
                    m.pods[old].1 = stop;
                }
            }
        }
    }
}

/// A fifth full; at every full hour a batch of 25 to 60 % of the capacity, its pods done after 2 to 20 minutes.
#[must_use]
pub fn batch(seed: u64, shape: Shape) -> Vec<Pod> {
    let mut m = Maker::new(seed, shape);
    m.fill(0.2);
    let mut hour = 1.0;
    while hour * HOUR < m.length {
        let count = {
            let share = m.between(0.25, 0.6);
            m.share(share)
        };
        let at = hour * HOUR + m.between(0.0, 2.0);
        let longest = m.between(5.0 * MINUTE, 20.0 * MINUTE);
        let first = m.pods.len();
        m.arrive(at, count, longest);
        for place in first..m.pods.len() {
            let life = m.between(2.0 * MINUTE, longest);
            let pod = &mut m.pods[place];
            pod.1 = pod.0 + life;
        }
        hour += 1.0;
    }
    m.done()
}

/// As many pods as one interface has addresses, and one more that runs a minute and is gone for half a minute: just
/// where a rule that counts whole interfaces changes its mind.
#[must_use]
pub fn flap(seed: u64, shape: Shape) -> Vec<Pod> {
    let mut m = Maker::new(seed, shape);
    let base = (shape.slots.min(shape.capacity.saturating_sub(1)) as usize).saturating_sub(DAEMON_SETS);
    for _ in 0..base {
        let at = m.between(20.0, 200.0);
        m.pods.push((at, f64::INFINITY));
    }
    let mut at = 5.0 * MINUTE;
    while at < m.length {
        let end = at + m.between(50.0, 70.0);
        m.pods.push((at, end));
        at = end + m.between(25.0, 35.0);
    }
    m.done()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { length: Duration::from_secs(86_400), capacity: 58, slots: 14 };

    /// Most pods at one time.
    fn peak(pods: &[Pod]) -> usize {
        pods.iter().map(|p| pods.iter().filter(|q| q.start <= p.start && p.start < q.stop).count()).max().unwrap_or(0)
    }

    #[test]
    fn repeat_with_the_seed_and_fit_the_node() {
        for workload in ALL {
            for seed in 1..4 {
                let pods = (workload.pods)(seed, SHAPE);
                assert_eq!(pods, (workload.pods)(seed, SHAPE), "{}", workload.name);
                assert_ne!(pods, (workload.pods)(seed + 1, SHAPE), "{}", workload.name);
                assert!(
                    pods.is_sorted_by_key(|p| p.start) && pods.iter().all(|p| p.start < p.stop),
                    "{}",
                    workload.name
                );
                let peak = peak(&pods);
                assert!(peak <= 58 && peak > 12, "{}: {peak}", workload.name);
            }
        }
    }

    #[test]
    fn are_what_they_say() {
        let pods = |f: fn(u64, Shape) -> Vec<Pod>| f(1, SHAPE);
        let starts = pods(steady).len();
        assert!((1900..2200).contains(&starts), "{starts}");
        assert_eq!(peak(&pods(flap)), 15);
        assert!((900..1000).contains(&pods(flap).len()));
        let by_day = pods(diurnal);
        let at = |hour: u64| {
            let t = Duration::from_secs(hour * 3600);
            by_day.iter().filter(|p| p.start <= t && t < p.stop).count()
        };
        assert!((6..=12).contains(&at(1)) && (42..=50).contains(&at(12)), "{} {}", at(1), at(12));
        // At full hours more than ten within a minute.
        let batches = pods(batch);
        let in_minute = |hour: u64| {
            let from = Duration::from_secs(hour * 3600);
            batches.iter().filter(|p| p.start >= from && p.start < from + Duration::from_secs(60)).count()
        };
        assert!((1..24).all(|hour| in_minute(hour) >= 14), "{}", in_minute(1));
    }

    #[test]
    fn small_nodes_are_not_overrun() {
        let shape = Shape { length: Duration::from_secs(7200), capacity: 4, slots: 2 };
        for workload in ALL {
            let pods = (workload.pods)(1, shape);
            assert!(peak(&pods) <= 4, "{}", workload.name);
        }
    }
}
