//! SNS: takes Publish in the query protocol of the SDKs and the CLI, and keeps the messages.
//!
//! Every standard topic of the sandbox's region and account exists; no topic has subscribers. Bounds follow the API
//! reference (<https://docs.aws.amazon.com/sns/latest/api/API_Publish.html>).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::lambda_host::{ACCOUNT, REGION};
use axum::body::Body;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde::Serialize;
use uuid::Uuid;

use crate::events::rfc3339;

const XML_NAMESPACE: &str = "http://sns.amazonaws.com/doc/2010-03-31/";
const MAX_MESSAGE: usize = 262_144;
/// "Subjects must be UTF-8 text with no line breaks or control characters, and less than 100 characters long."
const SUBJECT_BOUND: usize = 100;
const SERVED: [&str; 5] = ["Action", "Version", "TopicArn", "Subject", "Message"];
const ATTRIBUTES: &str = "MessageAttributes.entry.";
/// "Name … can be up to 256 characters long."
const LONGEST_NAME: usize = 256;

/// A published message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notification {
    /// The time of the Publish, by the sandbox's clock.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// The topic.
    pub topic_arn: String,
    /// The subject of an email, if the request has one.
    pub subject: Option<String>,
    /// The text of the message.
    pub message: String,
    /// The message attributes of the types String, Number and String.Array, by name.
    pub attributes: BTreeMap<String, String>,
    /// The id in the answer to the publisher.
    pub message_id: String,
}

/// The published messages. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Sns {
    published: Arc<Mutex<Vec<Notification>>>,
}

/// A code of the API with a message. Messages are fixed texts, so they need no escaping.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SnsError {
    status: StatusCode,
    code: &'static str,
    message: &'static str,
}

impl SnsError {
    const THROTTLED: Self = Self::new(StatusCode::BAD_REQUEST, "Throttling", "Rate exceeded");
    const INTERNAL: Self = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "SNS failed.");
    const NO_TOPIC: Self = Self::new(StatusCode::NOT_FOUND, "NotFound", "Topic does not exist");
    const UNKNOWN: Self =
        Self::new(StatusCode::BAD_REQUEST, "InvalidAction", "The sandbox serves no other action of SNS than Publish.");

    const fn new(status: StatusCode, code: &'static str, message: &'static str) -> Self {
        Self { status, code, message }
    }

    const fn invalid(message: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidParameter", message)
    }
}

impl Sns {
    /// Whether a request is signed for SNS. Only the signature tells SNS from other services of this protocol.
    pub(crate) fn accepts(parts: &Parts) -> bool {
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        parts.method == Method::POST
            && header(CONTENT_TYPE).starts_with("application/x-www-form-urlencoded")
            && header(AUTHORIZATION).contains("/sns/")
    }

    pub(crate) fn operation(body: &[u8]) -> String {
        let action = form_urlencoded::parse(body).find(|(name, _)| name == "Action");
        action.map(|(_, action)| action.into_owned()).unwrap_or_default()
    }

    pub(crate) fn handle(&self, body: &[u8], now: SystemTime) -> Response<Body> {
        match self.publish(body, now) {
            Ok(id) => respond(
                StatusCode::OK,
                "PublishResponse",
                &format!("<PublishResult><MessageId>{id}</MessageId></PublishResult>"),
            ),
            Err(error) => refuse(&error),
        }
    }

    pub(crate) fn throttle() -> Response<Body> {
        refuse(&SnsError::THROTTLED)
    }

    pub(crate) fn fail() -> Response<Body> {
        refuse(&SnsError::INTERNAL)
    }

    pub(crate) fn notifications(&self) -> Vec<Notification> {
        self.published().clone()
    }

    fn publish(&self, body: &[u8], now: SystemTime) -> Result<String, SnsError> {
        let mut form: BTreeMap<String, String> = form_urlencoded::parse(body).into_owned().collect();
        if form.get("Action").is_none_or(|action| action != "Publish") {
            return Err(SnsError::UNKNOWN);
        }
        let attributes = take_attributes(&mut form)?;
        if form.keys().any(|name| !SERVED.contains(&name.as_str())) {
            return Err(SnsError::invalid("The sandbox serves only TopicArn, Subject, Message and MessageAttributes."));
        }
        let topic_arn = form.remove("TopicArn").ok_or(SnsError::invalid(
            "Invalid parameter: TopicArn or TargetArn Reason: no value for required parameter",
        ))?;
        let message = form.remove("Message").unwrap_or_default();
        let subject = form.remove("Subject");
        check_topic(&topic_arn)?;
        if message.is_empty() {
            return Err(SnsError::invalid("Invalid parameter: Empty message"));
        }
        if message.len() > MAX_MESSAGE {
            return Err(SnsError::invalid("Invalid parameter: Message too long"));
        }
        if subject.as_deref().is_some_and(|subject| !is_subject(subject)) {
            return Err(SnsError::invalid("Invalid parameter: Subject"));
        }
        let message_id = Uuid::new_v4().to_string();
        let notification =
            Notification { time: now, topic_arn, subject, message, attributes, message_id: message_id.clone() };
        self.published().push(notification);
        Ok(message_id)
    }

    fn published(&self) -> MutexGuard<'_, Vec<Notification>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes `MessageAttributes.entry.N.Name`, `….Value.DataType` and `….Value.StringValue` out of the form.
fn take_attributes(form: &mut BTreeMap<String, String>) -> Result<BTreeMap<String, String>, SnsError> {
    let taken: BTreeMap<String, String> = form.extract_if(.., |name, _| name.starts_with(ATTRIBUTES)).collect();
    let mut attributes = BTreeMap::new();
    for (entry, name) in taken.iter().filter_map(|(key, name)| Some((key.strip_suffix(".Name")?, name))) {
        let kind = taken.get(&format!("{entry}.Value.DataType")).map(String::as_str).unwrap_or_default();
        let value = taken.get(&format!("{entry}.Value.StringValue")).cloned().unwrap_or_default();
        // A label after a dot is the sender's own.
        let known = ["String", "Number"].iter().any(|known| kind.split('.').next() == Some(known));
        let named = (1..=LONGEST_NAME).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !known || !named || value.is_empty() {
            return Err(SnsError::invalid("Invalid parameter: MessageAttributes"));
        }
        attributes.insert(name.clone(), value);
    }
    // Two attributes of one name, or a part without a name.
    let parts = attributes.len() * 3;
    if parts == taken.len() { Ok(attributes) } else { Err(SnsError::invalid("Invalid parameter: MessageAttributes")) }
}

fn check_topic(arn: &str) -> Result<(), SnsError> {
    let parts: Vec<&str> = arn.split(':').collect();
    match parts.as_slice() {
        ["arn", "aws", "sns", region, account, name] => {
            let named = (1..=256).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
            // Another region's topic is an invalid parameter, as recorded in mozilla/security#8.
            match (*region == REGION, named) {
                (true, true) if *account == ACCOUNT => Ok(()),
                (true, true) => Err(SnsError::NO_TOPIC),
                _ => Err(SnsError::invalid("Invalid parameter: TopicArn")),
            }
        }
        _ => Err(SnsError::invalid("Invalid parameter: TopicArn Reason: An ARN must have at least 6 elements")),
    }
}

fn is_subject(subject: &str) -> bool {
    let length = subject.chars().count();
    length > 0 && length < SUBJECT_BOUND && !subject.chars().any(char::is_control)
}

fn refuse(error: &SnsError) -> Response<Body> {
    let SnsError { status, code, message } = error;
    let kind = if status.is_server_error() { "Receiver" } else { "Sender" };
    respond(
        *status,
        "ErrorResponse",
        &format!("<Error><Type>{kind}</Type><Code>{code}</Code><Message>{message}</Message></Error>"),
    )
}

fn respond(status: StatusCode, root: &str, content: &str) -> Response<Body> {
    let id = Uuid::new_v4();
    let request_id = match root {
        "ErrorResponse" => format!("<RequestId>{id}</RequestId>"),
        _ => format!("<ResponseMetadata><RequestId>{id}</RequestId></ResponseMetadata>"),
    };
    let body = format!("<{root} xmlns=\"{XML_NAMESPACE}\">{content}{request_id}</{root}>");
    let response = Response::builder().status(status).header(CONTENT_TYPE, "text/xml");
    // All headers are this file's own and well-formed.
    response.header("x-amzn-requestid", id.to_string()).body(Body::from(body)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "arn:aws:sns:us-east-1:000000000000:alerts";

    fn publish(fields: &[(&str, &str)]) -> Result<Vec<Notification>, SnsError> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("Action", "Publish").append_pair("Version", "2010-03-31").extend_pairs(fields);
        let sns = Sns::default();
        sns.publish(form.finish().as_bytes(), SystemTime::UNIX_EPOCH).map(|_| sns.notifications())
    }

    fn refused(fields: &[(&str, &str)]) -> (&'static str, &'static str) {
        let error = publish(fields).unwrap_err();
        (error.code, error.message)
    }

    #[test]
    fn topics_of_this_region_and_account_are_there() {
        let published = publish(&[("TopicArn", TOPIC), ("Message", "m")]).unwrap();
        assert_eq!((published[0].topic_arn.as_str(), &published[0].subject), (TOPIC, &None));
        let elsewhere = TOPIC.replace("000000000000", "111111111111");
        assert_eq!(refused(&[("TopicArn", &elsewhere), ("Message", "m")]).0, "NotFound");
        for arn in [TOPIC.replace("us-east-1", "eu-west-1"), TOPIC.replace("alerts", ""), "alerts".to_owned()] {
            assert_eq!(refused(&[("TopicArn", &arn), ("Message", "m")]).0, "InvalidParameter", "{arn}");
        }
        assert!(refused(&[("Message", "m")]).1.contains("no value for required parameter"));
    }

    #[test]
    fn subjects_and_messages_have_their_bounds() {
        let subject = |subject: &str| publish(&[("TopicArn", TOPIC), ("Message", "m"), ("Subject", subject)]);
        for good in ["s", "Schlüssel", &"x".repeat(99)] {
            assert_eq!(subject(good).unwrap()[0].subject.as_deref(), Some(good));
        }
        for bad in ["", "a\nb", "a\u{7}", &"x".repeat(100)] {
            assert_eq!(subject(bad).unwrap_err().message, "Invalid parameter: Subject", "{bad:?}");
        }
        let message = |message: &str| publish(&[("TopicArn", TOPIC), ("Message", message)]);
        assert!(message(&"x".repeat(MAX_MESSAGE)).is_ok());
        for bad in ["", &"x".repeat(MAX_MESSAGE + 1)] {
            assert_eq!(message(bad).unwrap_err().code, "InvalidParameter");
        }
    }

    #[test]
    fn message_attributes_are_kept_by_name() {
        let attribute = |number: u8, kind: &str, value: &str| {
            let part = |part: &str| format!("MessageAttributes.entry.{number}.{part}");
            let name = format!("name{number}");
            [
                (part("Name"), name),
                (part("Value.DataType"), kind.to_owned()),
                (part("Value.StringValue"), value.to_owned()),
            ]
        };
        let with = |attributes: &[[(String, String); 3]]| {
            let parts = attributes.iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()));
            publish(&[("TopicArn", TOPIC), ("Message", "m")].into_iter().chain(parts).collect::<Vec<_>>())
        };
        let kept = with(&[attribute(1, "String", "a"), attribute(2, "Number", "7")]).unwrap();
        let expected = [("name1", "a"), ("name2", "7")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(kept[0].attributes, BTreeMap::from(expected));
        for bad in [attribute(1, "Text", "a"), attribute(1, "String", "")] {
            assert_eq!(with(&[bad]).unwrap_err().message, "Invalid parameter: MessageAttributes");
        }
        let fields = [("TopicArn", TOPIC), ("Message", "m"), ("MessageAttributes.entry.1.Name", "alone")];
        assert_eq!(refused(&fields).0, "InvalidParameter");
    }

    #[test]
    fn what_is_not_served_is_refused() {
        let fields = [("TopicArn", TOPIC), ("Message", "{}"), ("MessageStructure", "json")];
        assert_eq!(refused(&fields).0, "InvalidParameter");
        let other = Sns::default().publish(b"Action=CreateTopic&Name=alerts", SystemTime::UNIX_EPOCH);
        assert_eq!(other, Err(SnsError::UNKNOWN));
    }
}
