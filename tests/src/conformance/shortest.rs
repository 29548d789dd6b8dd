use std::future::Future;

/// Part of a sequence, that may be replaced by something simpler.
pub trait Simpler: Clone {
    /// The same with less in it: each of these is tried in its place.
    fn simpler(&self) -> Vec<Self>;
}

/// The shortest sequence found on which model and real part still differ, with the difference.
///
/// `differ` runs some sequences, side by side if it can, each from a fresh beginning, and says of each what differs.
/// Halves, quarters and so on are left out (delta debugging: Zeller, Hildebrandt, "Simplifying and isolating failure-inducing input",
/// 2002) until nothing can be; then what is left is made simpler part by part; and of at most four parts every choice is tried, so
/// that nothing shorter hides in them.
pub async fn shortest<A: Simpler, F: Future<Output = Vec<Option<String>>>>(
    sequence: Vec<A>,
    differ: impl Fn(Vec<Vec<A>>) -> F,
) -> Option<(Vec<A>, String)> {
    let mut best = first(&differ, vec![sequence]).await?;
    let mut parts = 2;
    while best.0.len() > 1 {
        let length = best.0.len();
        let size = length.div_ceil(parts);
        let without = |from: usize| {
            let kept =
                best.0.iter().enumerate().filter(|(at, _)| !(from..from + size).contains(at));
            kept.map(|(_, part)| part.clone()).collect::<Vec<_>>()
        };
        let candidates = (0..length).step_by(size).map(without).collect();
        match first(&differ, candidates).await {
            Some(smaller) => {
                best = smaller;
                parts = 2.max(parts - 1);
            }
            None if size == 1 => break,
            None => parts = length.min(parts * 2),
        }
    }
    loop {
        let mut candidates = Vec::new();
        for (at, part) in best.0.iter().enumerate() {
            for simpler in part.simpler() {
                let mut candidate = best.0.clone();
                candidate[at] = simpler;
                candidates.push(candidate);
            }
        }
        match first(&differ, candidates).await {
            Some(simpler) => best = simpler,
            None => break,
        }
    }
    let length = best.0.len();
    if length <= 4 {
        let mut choices: Vec<u32> = (1..(1_u32 << length) - 1).collect();
        choices.sort_by_key(|choice| choice.count_ones());
        let kept = |choice: &u32| {
            let parts = best.0.iter().enumerate();
            parts.filter(|(at, _)| choice >> at & 1 == 1).map(|(_, part)| part.clone()).collect()
        };
        let candidates = choices.iter().map(kept).collect();
        best = first(&differ, candidates).await.unwrap_or(best);
    }
    Some(best)
}

/// The first of these that differs.
async fn first<A: Clone, F: Future<Output = Vec<Option<String>>>>(
    differ: &impl Fn(Vec<Vec<A>>) -> F,
    candidates: Vec<Vec<A>>,
) -> Option<(Vec<A>, String)> {
    if candidates.is_empty() {
        return None;
    }
    let said = differ(candidates.clone()).await;
    candidates.into_iter().zip(said).find_map(|(candidate, said)| Some((candidate, said?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Simpler for u32 {
        fn simpler(&self) -> Vec<Self> {
            (*self > 10).then(|| self - 10).into_iter().collect()
        }
    }

    async fn of(wanted: &[u32], sequence: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let differ = async |candidates: Vec<Vec<u32>>| {
            let in_order = |candidate: Vec<u32>| {
                let mut rest = candidate.iter();
                let there = wanted.iter().all(|wanted| rest.any(|part| part % 10 == *wanted));
                there.then(|| "they differ".to_owned())
            };
            candidates.into_iter().map(in_order).collect()
        };
        let found = shortest(sequence.into_iter().collect(), differ).await;
        found.map_or_else(Vec::new, |(sequence, _)| sequence)
    }

    #[tokio::test]
    async fn what_does_not_matter_is_left_out_and_what_is_left_is_made_simple() {
        assert_eq!(of(&[3, 7], 0..100).await, [3, 7]);
        assert_eq!(of(&[7, 3], 0..100).await, [7, 3]);
        assert_eq!(of(&[1, 1, 1, 1, 1], 11..90).await, [1, 1, 1, 1, 1]);
        assert_eq!(of(&[1], 0..1).await, Vec::<u32>::new());
    }
}
