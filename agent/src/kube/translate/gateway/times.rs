//! Timeouts and attempts of an HTTPRoute's rules.

use std::time::Duration;

use gateway_api::apis::experimental::httproutes::HttpRouteRules;
use wayspan_proxy::middleware::Retry;
use wayspan_proxy::snapshot::Timeouts;

/// Between two attempts of a rule that does not say.
const BACKOFF: Duration = Duration::from_millis(25);

/// A request's time, and that of each attempt to have it answered; zero: none.
fn both_timeouts(rule: &HttpRouteRules) -> Result<[Duration; 2], String> {
    let of = |text: &Option<String>| text.as_deref().map_or(Ok(Duration::ZERO), time);
    let Some(timeouts) = &rule.timeouts else { return Ok([Duration::ZERO; 2]) };
    Ok([of(&timeouts.request)?, of(&timeouts.backend_request)?])
}

fn time(text: &str) -> Result<Duration, String> {
    duration(text).ok_or_else(|| format!("`{text}` is no duration; write e.g. 10s or 1m30s"))
}

/// Where there is one attempt, the shorter of the two counts.
pub(super) fn timeouts(rule: &HttpRouteRules) -> Result<Timeouts, String> {
    let [request, attempt] = both_timeouts(rule)?;
    let all = [request, if rule.retry.is_some() { Duration::ZERO } else { attempt }];
    let request = all.into_iter().filter(|time| !time.is_zero()).min().unwrap_or_default();
    Ok(Timeouts { request, ..Timeouts::default() })
}

pub(super) fn retry(rule: &HttpRouteRules) -> Result<Option<Retry>, String> {
    if rule.session_persistence.is_some() {
        return Err("sessionPersistence is not supported yet".to_owned());
    }
    let Some(retry) = &rule.retry else { return Ok(None) };
    let code = |code: &i64| u16::try_from(*code).map_err(|_| format!("{code} is no status"));
    Ok(Some(Retry {
        attempts: u16::try_from(retry.attempts.unwrap_or(1)).unwrap_or(0),
        codes: retry.codes.iter().flatten().map(code).collect::<Result<_, _>>()?,
        backoff: retry.backoff.as_deref().map_or(Ok(BACKOFF), time)?,
        each: both_timeouts(rule)?[1],
    }))
}

/// GEP-2257: hours, minutes, seconds and milliseconds, whole numbers, largest first.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    for (unit, millis) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1_u64)] {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, behind) = rest.split_at_checked(end)?;
        let word = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (found, after) = behind.split_at_checked(word)?;
        if found == unit {
            total = total.checked_add(Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(millis)?))?;
            rest = after;
        }
    }
    (rest.is_empty() && !text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_the_apis() {
        for (text, want) in [
            ("0s", Some(0)),
            ("10s", Some(10_000)),
            ("1m30s", Some(90_000)),
            ("1h2m3s4ms", Some(3_723_004)),
            ("500ms", Some(500)),
            ("1.5s", None),
            ("", None),
            ("10", None),
            ("s", None),
            ("3s1m", None),
            ("99999999999999999999h", None),
        ] {
            assert_eq!(duration(text).map(|time| time.as_millis()), want, "{text}");
        }
    }
}
