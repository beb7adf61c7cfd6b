//! Selections case by case, and random ones against the rules.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::seeds::for_each_seed;

fn step(instance: InstanceId, to: Rung, releases: u64, rate: f64, delay_ms: u64, idle_since: Instant) -> Step {
    Step { instance, to, idle_since, releases, rate, delay: Duration::from_millis(delay_ms) }
}

fn end(releases: u64, rate: f64, delay_ms: u64, idle_since: Instant) -> Step {
    step(InstanceId::random(), Rung::Ended, releases, rate, delay_ms, idle_since)
}

#[test]
fn the_cheapest_bytes_are_released_first() {
    let now = Instant::now();
    // Dear to start, rarely wanted, and small; each in turn.
    let [slow, rare, large] = [end(100, 0.1, 700, now), end(100, 0.001, 50, now), end(400, 0.1, 50, now)];
    let select = |missing| GreedyDual::default().select(missing, vec![slow, rare, large], now);
    assert_eq!(select(100), [(rare.instance, Rung::Ended)]);
    // The large one makes the rare one unnecessary.
    assert_eq!(select(101), [(large.instance, Rung::Ended)]);
    assert_eq!(select(500), [(rare.instance, Rung::Ended), (large.instance, Rung::Ended)]);
    assert_eq!(select(600).len(), 3);
    assert_eq!(select(601), []);
}

#[test]
fn an_instance_is_paused_before_any_is_ended_and_ended_without_a_pause() {
    let (now, [a, b]) = (Instant::now(), [(); 2].map(|()| InstanceId::random()));
    let steps: Vec<_> = [a, b]
        .into_iter()
        .flat_map(|id| [step(id, Rung::Ended, 20, 0.1, 265, now), step(id, Rung::Paused, 100, 0.1, 1, now)])
        .collect();
    let select = |missing| {
        let mut selected = GreedyDual::default().select(missing, steps.clone(), now);
        selected.sort_by_key(|(_, to)| *to);
        selected.into_iter().map(|(_, to)| to).collect::<Vec<_>>()
    };
    assert_eq!(select(100), [Rung::Paused]);
    assert_eq!(select(200), [Rung::Paused; 2]);
    assert_eq!(select(201), [Rung::Paused, Rung::Ended]);
    assert_eq!((select(240), select(241)), (vec![Rung::Ended; 2], vec![]));
}

#[test]
fn what_was_not_used_for_long_is_overtaken() {
    let (mut now, mut policy) = (Instant::now(), GreedyDual::default());
    let dear = end(100, 0.01, 1_000, now);
    let mut evicted = 0;
    while evicted < 100 {
        now += Duration::from_secs(1);
        let cheap = end(100, 0.01, 100, now);
        let [(instance, _)] = policy.select(100, vec![dear, cheap], now).try_into().unwrap();
        if instance == dear.instance {
            break;
        }
        evicted += 1;
    }
    assert_eq!(evicted, 10, "ten cheap ones are worth a dear one");
}

#[test]
fn equal_instances_go_in_the_order_of_their_last_use() {
    let now = Instant::now();
    let steps: Vec<_> = (0..3).rev().map(|second| end(100, 0.0, 0, now + Duration::from_secs(second))).collect();
    let selected = GreedyDual::default().select(200, steps.clone(), now);
    assert_eq!(selected, [steps[2], steps[1]].map(|step| (step.instance, Rung::Ended)));
}

#[test]
fn selections_suffice_and_have_nothing_unnecessary() {
    for_each_seed(300, |seed| {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut now, mut policy) = (Instant::now(), GreedyDual::default());
        for _ in 0..50 {
            now += Duration::from_secs(random.random_range(0..100));
            let mut steps = Vec::new();
            for _ in 0..random.random_range(0..12) {
                let (id, idle_since) = (InstanceId::random(), now - Duration::from_secs(random.random_range(0..1_000)));
                let rate = random.random_range(0.0..1.0);
                if random.random() {
                    steps.push(step(id, Rung::Paused, random.random_range(1..200), rate, 1, idle_since));
                }
                steps.push(step(id, Rung::Ended, random.random_range(1..200), rate, 500, idle_since));
            }
            let missing = random.random_range(1..600);
            let before = policy.clock;
            let selected = policy.select(missing, steps.clone(), now);
            let releases = |selected: &[(InstanceId, Rung)]| {
                let taken = |step: &&Step| selected.iter().any(|(id, to)| *id == step.instance && step.to <= *to);
                steps.iter().filter(taken).map(|step| step.releases).sum::<u64>()
            };
            assert!(policy.clock >= before, "the clock goes back");
            if steps.iter().map(|step| step.releases).sum::<u64>() < missing {
                assert_eq!((selected, policy.clock), (vec![], before));
                continue;
            }
            assert!(releases(&selected) >= missing, "not enough");
            for index in 0..selected.len() {
                let mut fewer = selected.clone();
                let can_pause = steps.iter().any(|step| step.instance == fewer[index].0 && step.to == Rung::Paused);
                match fewer[index].1 {
                    Rung::Ended if can_pause => fewer[index].1 = Rung::Paused,
                    _ => drop(fewer.remove(index)),
                }
                assert!(releases(&fewer) < missing, "a step was unnecessary");
            }
        }
    });
}
