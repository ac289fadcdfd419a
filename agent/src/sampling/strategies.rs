//! Jaeger's answers to "what should this service sample": bytes to strategies to a policy. Pure; asking is `client`'s.
//!
//! Jaeger's clients ignore `strategyType` (a number in older servers, a name since 2.16) and look at
//! `operationSampling` first, then `rateLimitingSampling`, then `probabilisticSampling`; so do we. Numbers may come as
//! strings, and an absent one is zero, as protobuf's JSON has it.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use wayspan_proxy::sampling::{Gcra, Policy, Rule};

/// Operations obeyed at most (the limit of Jaeger's own clients); the rest follow the default.
const OPERATIONS_MAX: usize = 2000;

/// What an answer says.
#[derive(Clone, Debug, PartialEq)]
pub struct Strategies {
    /// For operations that are not listed.
    default: Strategy,
    /// By operation; the first of equals counts.
    operations: Vec<(Box<str>, Strategy)>,
}

/// How to decide for one operation.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Strategy {
    /// A share, and the traces a second that are kept in any case.
    Share { share: f64, at_least: f64 },
    /// Traces a second at most.
    Rate(f64),
}

/// Why an answer was not obeyed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadAnswer {
    /// Not a JSON object.
    #[error("the answer is not a JSON object")]
    NotJson,
    /// A JSON object without any strategy.
    #[error("the answer holds no strategy")]
    NoStrategy,
    /// A field of the wrong kind.
    #[error("{field} is not {wanted}")]
    WrongKind {
        /// The field's name.
        field: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
}

impl Strategies {
    /// Reads the body of an answer.
    ///
    /// # Errors
    /// Where it is not what Jaeger's sampling API answers; nothing of it is obeyed then.
    pub fn parse(body: &[u8]) -> Result<Self, BadAnswer> {
        let Ok(Value::Object(answer)) = serde_json::from_slice(body) else { return Err(BadAnswer::NotJson) };
        if let Some(operations) = object(&answer, "operationSampling")? {
            return Self::by_operation(operations);
        }
        let default = strategy(&answer, 0.0)?.ok_or(BadAnswer::NoStrategy)?;
        Ok(Self { default, operations: Vec::new() })
    }

    /// How many operations have a rule of their own.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.operations.len()
    }

    fn by_operation(sampling: &Map<String, Value>) -> Result<Self, BadAnswer> {
        let share = number(sampling, "defaultSamplingProbability")?;
        let at_least = number(sampling, "defaultLowerBoundTracesPerSecond")?;
        let listed = match sampling.get("perOperationStrategies") {
            None | Some(Value::Null) => &[][..],
            Some(Value::Array(listed)) => listed,
            Some(_) => return Err(wrong("perOperationStrategies", "a list")),
        };
        let mut operations = Vec::with_capacity(listed.len().min(OPERATIONS_MAX));
        for entry in listed.iter().take(OPERATIONS_MAX) {
            let Value::Object(entry) = entry else { return Err(wrong("perOperationStrategies", "a list of objects")) };
            let name = match entry.get("operation") {
                Some(Value::String(name)) => name.as_str(),
                None | Some(Value::Null) => "",
                Some(_) => return Err(wrong("operation", "a string")),
            };
            if let Some(strategy) = strategy(entry, at_least)? {
                operations.push((name.into(), strategy));
            }
        }
        Ok(Self { default: Strategy::Share { share, at_least }, operations })
    }

    /// The policy of these strategies. Rates that were there before with the same value go on counting where they
    /// were: a poll must not hand out a new second's worth.
    #[must_use]
    pub fn policy(&self, before: &Policy) -> Policy {
        let mut operations = HashMap::with_capacity(self.operations.len());
        for (name, strategy) in &self.operations {
            let before = before.operations.get(name);
            operations.entry(name.clone()).or_insert_with(|| strategy.rule(before));
        }
        Policy { parent_based: before.parent_based, default: self.default.rule(Some(&before.default)), operations }
    }
}

impl Strategy {
    fn rule(self, before: Option<&Rule>) -> Rule {
        match self {
            Self::Rate(rate) => {
                let mut rule = Rule::rate(rate);
                let kept = before.and_then(|before| before.limit.clone());
                let kept = kept.filter(|kept| same(kept.per_second(), rate));
                if kept.is_some() {
                    rule.limit = kept;
                }
                rule
            }
            Self::Share { share, at_least } => {
                let mut rule = Rule::ratio(share);
                if at_least > 0.0 {
                    let kept = before.and_then(|before| before.at_least.as_ref());
                    let kept = kept.filter(|kept| same(kept.per_second(), at_least)).map(Arc::clone);
                    rule.at_least = Some(kept.unwrap_or_else(|| Arc::new(Gcra::new(at_least))));
                }
                rule
            }
        }
    }
}

fn same(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits()
}

/// The strategy of a service or operation, if it names one.
fn strategy(from: &Map<String, Value>, at_least: f64) -> Result<Option<Strategy>, BadAnswer> {
    if let Some(limit) = object(from, "rateLimitingSampling")? {
        return Ok(Some(Strategy::Rate(number(limit, "maxTracesPerSecond")?)));
    }
    let Some(probabilistic) = object(from, "probabilisticSampling")? else { return Ok(None) };
    Ok(Some(Strategy::Share { share: number(probabilistic, "samplingRate")?, at_least }))
}

fn object<'a>(from: &'a Map<String, Value>, field: &'static str) -> Result<Option<&'a Map<String, Value>>, BadAnswer> {
    match from.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(wrong(field, "an object")),
    }
}

fn number(from: &Map<String, Value>, field: &'static str) -> Result<f64, BadAnswer> {
    let number = match from.get(field) {
        None | Some(Value::Null) => Some(0.0),
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(_) => None,
    };
    number.filter(|number| number.is_finite() && *number >= 0.0).ok_or_else(|| wrong(field, "a number of at least 0"))
}

fn wrong(field: &'static str, wanted: &'static str) -> BadAnswer {
    BadAnswer::WrongKind { field, wanted }
}

#[cfg(test)]
mod tests {
    use wayspan_proxy::clock::MonoNs;
    use wayspan_proxy::sampling::Reason;
    use wayspan_proxy::trace_context::TraceId;

    use super::*;

    const OPERATIONS: &str = r#"{"defaultSamplingProbability":0.8,"defaultLowerBoundTracesPerSecond":0,
        "perOperationStrategies":[{"operation":"op1","probabilisticSampling":{"samplingRate":0.2}},
        {"operation":"/health","probabilisticSampling":{"samplingRate":0}}],"defaultUpperBoundTracesPerSecond":0}"#;

    fn share(share: f64) -> Strategy {
        Strategy::Share { share, at_least: 0.0 }
    }

    fn check(body: &str, default: Strategy, operations: &[(&str, Strategy)]) {
        let operations = operations.iter().map(|(name, strategy)| ((*name).into(), *strategy)).collect();
        assert_eq!(Strategies::parse(body.as_bytes()), Ok(Strategies { default, operations }), "{body}");
    }

    #[test]
    fn the_bodies_that_jaeger_answers_are_understood() {
        check(r#"{"strategyType":0,"probabilisticSampling":{"samplingRate":1}}"#, share(1.0), &[]);
        check(r#"{"strategyType":1,"rateLimitingSampling":{"maxTracesPerSecond":5}}"#, Strategy::Rate(5.0), &[]);
        let listed = [("op1", share(0.2)), ("/health", share(0.0))];
        let body = format!(
            r#"{{"strategyType":0,"probabilisticSampling":{{"samplingRate":0.8}},"operationSampling":{OPERATIONS}}}"#
        );
        check(&body, share(0.8), &listed);
        let body = format!(
            r#"{{"strategyType":1,"rateLimitingSampling":{{"maxTracesPerSecond":5}},"operationSampling":{OPERATIONS}}}"#
        );
        check(&body, share(0.8), &listed);
        check(r#"{"strategyType":"PROBABILISTIC","probabilisticSampling":{"samplingRate":"0.5"}}"#, share(0.5), &[]);
        check(
            r#"{"strategyType":"RATE_LIMITING","rateLimitingSampling":{"maxTracesPerSecond":"7"}}"#,
            Strategy::Rate(7.0),
            &[],
        );
    }

    #[test]
    fn absent_fields_are_zero_and_unknown_ones_do_not_matter() {
        check(r#"{"probabilisticSampling":{}}"#, share(0.0), &[]);
        check(r#"{"probabilisticSampling":{"samplingRate":null},"new":[1]}"#, share(0.0), &[]);
        check(
            r#"{"operationSampling":{"defaultLowerBoundTracesPerSecond":"2","perOperationStrategies":[
                {"probabilisticSampling":{"samplingRate":1}},{"operation":"a"},
                {"operation":"b","rateLimitingSampling":{"maxTracesPerSecond":3}}]}}"#,
            Strategy::Share { share: 0.0, at_least: 2.0 },
            &[("", Strategy::Share { share: 1.0, at_least: 2.0 }), ("b", Strategy::Rate(3.0))],
        );
        check(r#"{"operationSampling":null,"rateLimitingSampling":{}}"#, Strategy::Rate(0.0), &[]);
    }

    #[test]
    fn what_is_no_strategy_is_refused_whole() {
        let wrong = |field| BadAnswer::WrongKind { field, wanted: "" };
        for (body, expected) in [
            ("", BadAnswer::NotJson),
            ("[]", BadAnswer::NotJson),
            ("<html>", BadAnswer::NotJson),
            ("{}", BadAnswer::NoStrategy),
            (r#"{"strategyType":0}"#, BadAnswer::NoStrategy),
            (r#"{"probabilisticSampling":1}"#, wrong("probabilisticSampling")),
            (r#"{"probabilisticSampling":{"samplingRate":"much"}}"#, wrong("samplingRate")),
            (r#"{"probabilisticSampling":{"samplingRate":-1}}"#, wrong("samplingRate")),
            (r#"{"probabilisticSampling":{"samplingRate":"NaN"}}"#, wrong("samplingRate")),
            (r#"{"rateLimitingSampling":{"maxTracesPerSecond":[]}}"#, wrong("maxTracesPerSecond")),
            (r#"{"operationSampling":{"perOperationStrategies":{}}}"#, wrong("perOperationStrategies")),
            (r#"{"operationSampling":{"perOperationStrategies":[{"operation":1}]}}"#, wrong("operation")),
        ] {
            match (Strategies::parse(body.as_bytes()).unwrap_err(), expected) {
                (BadAnswer::WrongKind { field, .. }, BadAnswer::WrongKind { field: expected, .. }) => {
                    assert_eq!(field, expected, "{body}");
                }
                (error, expected) => assert_eq!(error, expected, "{body}"),
            }
        }
    }

    #[test]
    fn a_policy_decides_by_operation_with_a_guaranteed_minimum() {
        let body = r#"{"operationSampling":{"defaultSamplingProbability":1,"defaultLowerBoundTracesPerSecond":1,
            "perOperationStrategies":[{"operation":"GET a/","probabilisticSampling":{"samplingRate":0}}]}}"#;
        let policy = Strategies::parse(body.as_bytes()).unwrap().policy(&Policy::ratio(0.0));
        let decide = |name: &str| policy.decide(|| name.to_owned(), None, TraceId([1; 16]), MonoNs(1 << 40));
        assert_eq!(decide("GET b/").reason, Reason::Probabilistic);
        assert!(decide("GET b/").sampled);
        let first = decide("GET a/");
        assert_eq!((first.sampled, first.reason, first.param), (true, Reason::LowerBound, 0.0));
        assert!(!decide("GET a/").sampled);
    }

    #[test]
    fn unchanged_rates_go_on_counting_across_polls() {
        let now = MonoNs(1 << 40);
        let decide = |policy: &Policy| policy.decide(String::new, None, TraceId([255; 16]), now).sampled;
        let parse = |body: &str| Strategies::parse(body.as_bytes()).unwrap();
        let rate = |rate: u32| parse(&format!(r#"{{"rateLimitingSampling":{{"maxTracesPerSecond":{rate}}}}}"#));
        let floor =
            |floor: u32| parse(&format!(r#"{{"operationSampling":{{"defaultLowerBoundTracesPerSecond":{floor}}}}}"#));
        for (same, other) in [(rate(1), rate(2)), (floor(1), floor(2))] {
            let first = same.policy(&Policy::ratio(1.0));
            assert!(decide(&first) && !decide(&first));
            let again = same.policy(&first);
            assert!(!decide(&again));
            assert!(decide(&other.policy(&again)));
        }
    }
}
