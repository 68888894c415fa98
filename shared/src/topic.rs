//! The adapter to SNS for notifications.

use aws_sdk_sns::Client;
use aws_sdk_sns::types::MessageAttributeValue;

use crate::aws::{SdkSettings, reason};
use crate::environment::Environment;
use crate::error::RotationError;
use crate::notification::{Attribute, Notification};

const VARIABLE: &str = "EVENT_TOPIC_ARN";

/// The topic of SNS that gets the notifications of a stack.
#[derive(Clone, Debug)]
pub struct Topic {
    client: Client,
    arn: String,
}

impl Topic {
    /// Reads `EVENT_TOPIC_ARN`, the variables that [`Clients::from_environment`](crate::aws::Clients::from_environment) reads, and the override
    /// `AWS_ENDPOINT_URL_SNS`. It sends nothing. `None` if the stack has no topic.
    ///
    /// # Errors
    /// [`RotationError::InvalidConfiguration`] and [`RotationError::InsecureUrl`] name the variable.
    pub fn from_environment(environment: &Environment) -> Result<Option<Self>, RotationError> {
        let Some(arn) = environment.get(VARIABLE).map(str::to_owned) else { return Ok(None) };
        let settings = SdkSettings::from_environment(environment)?;
        let client = Client::new(&settings.config(environment, "AWS_ENDPOINT_URL_SNS")?);
        Ok(Some(Self { client, arn }))
    }

    /// Sends a notification, with its facts as message attributes. A call that is tried again may arrive twice. Bound
    /// it with [`crate::deadline::Deadline::bound`].
    ///
    /// # Errors
    /// The service's words, or the reason why there was no answer.
    pub async fn send(&self, notification: &Notification) -> Result<(), String> {
        let mut call = self.client.publish().topic_arn(&self.arn);
        call = call.subject(notification.subject()).message(notification.message());
        for Attribute { name, value, data_type } in notification.attributes() {
            let value = MessageAttributeValue::builder().data_type(data_type).string_value(value).build();
            call = call.message_attributes(name, value.map_err(|error| error.to_string())?);
        }
        call.send().await.map(drop).map_err(|error| reason(&error))
    }
}
