//! CloudWatch Logs: answers FilterLogEvents from the log lines of the host's functions. Each function has the log group
//! `/aws/lambda/NAME`.
//!
//! An event has the sandbox's time at the arrival of its line. The real service also dates a line when Lambda hands it
//! over. So a time range means the same as elsewhere in the sandbox, also after the clock has moved. A time inside a
//! line is the function's own, by the machine's clock, and is ignored.
//!
//! Bounds and order follow the API reference
//! (<https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html>). Unlike in the
//! real service, events show at once, and a log group exists before the function's first line. Log streams are refused,
//! and so are patterns that [`pattern`] does not know.

mod pattern;

use std::time::{SystemTime, UNIX_EPOCH};

use crate::lambda_host::{LambdaHost, LogEvent};
use serde::Deserialize;
use serde_json::{Value, json};

use self::pattern::Pattern;
use crate::secrets_manager::error::{ApiError, ApiResult};
use crate::secrets_manager::wire::{self, answer};

const GROUP_PREFIX: &str = "/aws/lambda/";
const MAX_EVENTS: usize = 10_000;
/// The most bytes of a page of FilterLogEvents.
const MAX_PAGE: usize = 1 << 20;
/// The most lines that one call reads, matching or not. The service has such a bound too, so a page may be empty before
/// others that are not. The service's bound is not documented.
const SCANNED: usize = 10_000;
const MAX_PATTERN: usize = 1024;
/// 2024-01-01, in milliseconds.
const NEWEST_FIRST_SINCE: i64 = 1_704_067_200_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FilterLogEvents {
    log_group_name: Option<String>,
    log_group_identifier: Option<String>,
    log_stream_names: Option<Vec<String>>,
    log_stream_name_prefix: Option<String>,
    start_time: Option<i64>,
    end_time: Option<i64>,
    filter_pattern: Option<String>,
    next_token: Option<String>,
    limit: Option<i64>,
    start_from_head: Option<bool>,
}

/// The start of a page: the number of its first line, and the direction.
struct Cursor {
    from: u64,
    oldest_first: bool,
}

impl Cursor {
    fn parse(token: &str) -> ApiResult<Self> {
        let parsed = token.split_once('/').and_then(|(way, from)| {
            let oldest_first = match way {
                "f" => true,
                "b" => false,
                _ => return None,
            };
            Some(Self { from: from.parse().ok()?, oldest_first })
        });
        parsed.ok_or_else(|| ApiError::invalid_parameter("The specified nextToken is invalid."))
    }

    fn token(&self) -> String {
        format!("{}/{}", if self.oldest_first { "f" } else { "b" }, self.from)
    }
}

pub(crate) fn call(host: &LambdaHost, operation: &str, body: &[u8]) -> ApiResult<Value> {
    match operation {
        "FilterLogEvents" => filter_log_events(host, wire::parse(body)?),
        other => Err(ApiError::unknown_operation(other)),
    }
}

fn filter_log_events(host: &LambdaHost, request: FilterLogEvents) -> ApiResult<Value> {
    wire::unsupported("logGroupIdentifier", request.log_group_identifier.as_ref())?;
    wire::unsupported("logStreamNames", request.log_stream_names.as_ref())?;
    wire::unsupported("logStreamNamePrefix", request.log_stream_name_prefix.as_ref())?;
    let group = wire::required("logGroupName", request.log_group_name)?;
    wire::text_length("filterPattern", request.filter_pattern.as_deref(), 0..=MAX_PATTERN)?;
    let pattern = request.filter_pattern.as_deref().map_or(Ok(Pattern::Everything), Pattern::parse)?;
    let limit = wire::number("limit", request.limit, 1..=10_000)?.unwrap_or(MAX_EVENTS);
    let oldest_first = request.start_from_head.unwrap_or(true);
    let cursor = request.next_token.as_deref().map(Cursor::parse).transpose()?;
    let begins = request.start_time.unwrap_or(0);
    if cursor.is_none() && !oldest_first && begins < NEWEST_FIRST_SINCE {
        return Err(ApiError::invalid_parameter(
            "startFromHead can be false only when startTime is on or after Jan 1, 2024 00:00:00 UTC.",
        ));
    }

    let events = group.strip_prefix(GROUP_PREFIX).and_then(|function| host.log_events(function));
    let events = events.ok_or_else(log_group_not_found)?;
    let cursor = cursor.unwrap_or_else(|| Cursor {
        from: if oldest_first { 0 } else { events.last().map_or(0, |last| last.sequence) },
        oldest_first,
    });
    let mut lines: Box<dyn Iterator<Item = &LogEvent>> = if cursor.oldest_first {
        Box::new(events.iter().filter(|event| event.sequence >= cursor.from))
    } else {
        Box::new(events.iter().rev().filter(|event| event.sequence <= cursor.from))
    };
    let (mut found, mut size) = (Vec::new(), 0);
    for event in lines.by_ref().take(SCANNED) {
        let time = millis(event.time);
        if time >= begins && request.end_time.is_none_or(|ends| time <= ends) && pattern.matches(&event.message) {
            size += event.message.len();
            found.push(json!({
                "eventId": format!("{:056}", event.sequence),
                "ingestionTime": time,
                "logStreamName": "sandbox",
                "message": event.message,
                "timestamp": time,
            }));
        }
        if found.len() == limit || size >= MAX_PAGE {
            break;
        }
    }
    let next = lines.next().map(|event| Cursor { from: event.sequence, ..cursor }.token());
    Ok(answer(json!({ "events": found, "nextToken": next, "searchedLogStreams": [] })))
}

fn log_group_not_found() -> ApiError {
    ApiError::new("ResourceNotFoundException", "The specified log group does not exist.")
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
