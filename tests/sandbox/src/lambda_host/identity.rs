use crate::lambda_host::{ConfigurationError, InvokeError};

/// The region of every function of the host.
pub const REGION: &str = "us-east-1";

/// The account of every function of the host.
pub const ACCOUNT: &str = "000000000000";

/// The ARN of the function of that name.
#[must_use]
pub fn function_arn(name: &str) -> String {
    format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}")
}

/// The name of a function of this account and region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FunctionName {
    name: String,
    /// An alias; `None` for `$LATEST`.
    qualifier: Option<String>,
}

impl FunctionName {
    pub(crate) fn as_str(&self) -> &str {
        &self.name
    }

    pub(crate) fn qualifier(&self) -> Option<&str> {
        self.qualifier.as_deref()
    }

    /// The ARN, with the qualifier.
    pub(crate) fn arn(&self) -> String {
        let suffix = self.qualifier.as_ref().map(|qualifier| format!(":{qualifier}")).unwrap_or_default();
        function_arn(&self.name) + &suffix
    }

    pub(crate) fn check(name: &str) -> Result<(), ConfigurationError> {
        if is_name(name) { Ok(()) } else { Err(ConfigurationError::Name(name.to_owned())) }
    }

    /// Parses a `FunctionName` of the Invoke API: `name`, `ACCOUNT:function:name` or the ARN, each with an optional
    /// `:qualifier`, which may be `$LATEST` or an alias.
    pub(crate) fn parse(text: &str) -> Result<Self, InvokeError> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scope, name, qualifier) = match parts.as_slice() {
            [name] => (None, name, None),
            [name, qualifier] => (None, name, Some(qualifier)),
            [account, "function", name] => (Some((REGION, *account)), name, None),
            [account, "function", name, qualifier] => (Some((REGION, *account)), name, Some(qualifier)),
            ["arn", "aws", "lambda", region, account, "function", name] => (Some((*region, *account)), name, None),
            ["arn", "aws", "lambda", region, account, "function", name, qualifier] => {
                (Some((*region, *account)), name, Some(qualifier))
            }
            _ => return Err(InvokeError::InvalidName(text.to_owned())),
        };
        if !is_name(name) {
            return Err(InvokeError::InvalidName(text.to_owned()));
        }
        let (region, account) = scope.unwrap_or((REGION, ACCOUNT));
        let qualifier = qualifier.copied().filter(|qualifier| *qualifier != "$LATEST").map(str::to_owned);
        if (region, account) != (REGION, ACCOUNT) {
            let suffix = qualifier.map(|qualifier| format!(":{qualifier}")).unwrap_or_default();
            let arn = format!("arn:aws:lambda:{region}:{account}:function:{name}{suffix}");
            return Err(InvokeError::FunctionNotFound { arn });
        }
        Ok(Self { name: (*name).to_owned(), qualifier })
    }
}

/// Whether Lambda takes it as the name of an alias: letters, digits, `-` and `_`, and not only digits.
pub(crate) fn is_alias(alias: &str) -> bool {
    (1..=128).contains(&alias.len())
        && alias.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !alias.bytes().all(|b| b.is_ascii_digit())
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}
