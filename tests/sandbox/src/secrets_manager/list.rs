//! Operations over many secrets or versions, with filters and pages.

use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::secret::Secret;
use super::wire::{self, answer, seconds};
use super::{metadata, read_value, versions_to_stages};
use crate::state::Tx;

/// One page, and the token of the next page. The token is the number of items listed so far.
fn page<T>(
    items: Vec<T>,
    token: Option<&str>,
    max: Option<usize>,
    default: usize,
) -> ApiResult<(Vec<T>, Option<String>)> {
    let start = match token {
        None => 0,
        Some(token) => token.parse::<usize>().map_err(|_| ApiError::invalid_next_token())?,
    };
    let end = start.saturating_add(max.unwrap_or(default));
    let next = (end < items.len()).then(|| end.to_string());
    Ok((items.into_iter().take(end).skip(start).collect(), next))
}

pub(super) fn list_secrets(tx: &mut Tx<'_>, request: wire::ListSecrets) -> ApiResult<Value> {
    let max = wire::number("maxResults", request.max_results, 1..=100)?;
    let filters = Filter::parse(request.filters)?;
    let deleted_too = request.include_planned_deletion.unwrap_or(false);
    let mut secrets: Vec<&Secret> = tx
        .secrets()
        .iter()
        .filter(|secret| deleted_too || secret.deletion.is_none())
        .filter(|secret| filters.iter().all(|filter| filter.matches(secret)))
        .collect();
    match request.sort_by.as_deref() {
        None | Some("created-date") => secrets.sort_by_key(|secret| secret.created),
        Some("last-changed-date") => secrets.sort_by_key(|secret| secret.last_changed),
        Some("last-accessed-date") => secrets.sort_by_key(|secret| secret.last_accessed),
        Some("name") => secrets.sort_by(|a, b| a.name.cmp(&b.name)),
        Some(_) => {
            return Err(ApiError::validation("SortBy is created-date, last-accessed-date, last-changed-date or name."));
        }
    }
    if request.sort_order.as_deref() == Some("desc") {
        secrets.reverse();
    }
    let (secrets, next) = page(secrets, request.next_token.as_deref(), max, 100)?;
    let secrets: Vec<Value> = secrets
        .into_iter()
        .map(|secret| {
            let mut entry = metadata(secret);
            if let (Some(members), Some(stages)) = (entry.as_object_mut(), versions_to_stages(secret)) {
                members.insert("SecretVersionsToStages".into(), stages);
            }
            entry
        })
        .collect();
    Ok(answer(json!({ "SecretList": secrets, "NextToken": next })))
}

pub(super) fn list_secret_version_ids(
    tx: &mut Tx<'_>,
    request: wire::ListSecretVersionIds,
    stale: bool,
) -> ApiResult<Value> {
    let id = wire::secret_id(request.secret_id)?;
    let max = wire::number("maxResults", request.max_results, 1..=100)?;
    let deprecated_too = request.include_deprecated.unwrap_or(false);
    let secret = tx.find_to_read(&id, stale)?;
    let versions = secret.versions.iter().map(|version| (version, secret.stages_of(&version.id)));
    let versions: Vec<_> = versions.filter(|(_, stages)| deprecated_too || !stages.is_empty()).collect();
    let (versions, next) = page(versions, request.next_token.as_deref(), max, 100)?;
    let versions: Vec<Value> = versions
        .into_iter()
        .map(|(version, stages)| {
            answer(json!({
                "VersionId": version.id,
                "VersionStages": (!stages.is_empty()).then_some(stages),
                "LastAccessedDate": version.last_accessed.map(seconds),
                "CreatedDate": seconds(version.created),
                "KmsKeyIds": [secret.kms_key_id.as_deref().unwrap_or("DefaultEncryptionKey")],
            }))
        })
        .collect();
    Ok(answer(json!({ "ARN": secret.arn, "Name": secret.name, "Versions": versions, "NextToken": next })))
}

pub(super) fn batch_get_secret_value(
    tx: &mut Tx<'_>,
    request: wire::BatchGetSecretValue,
    stale: bool,
) -> ApiResult<Value> {
    let max = wire::number("maxResults", request.max_results, 1..=20)?;
    let (ids, next) = match (request.secret_id_list, request.filters) {
        (Some(ids), None) => {
            wire::length("secretIdList", ids.len(), 1..=20)?;
            if max.is_some() {
                return Err(ApiError::invalid_parameter(
                    "'Filters' not specified. 'Filters' must also be specified when 'MaxResults' is provided.",
                ));
            }
            (ids, None)
        }
        (None, Some(filters)) => {
            let filters = Filter::parse(Some(filters))?;
            let arns = tx
                .secrets()
                .iter()
                .filter(|secret| secret.deletion.is_none() && filters.iter().all(|filter| filter.matches(secret)))
                .map(|secret| secret.arn.clone())
                .collect();
            page(arns, request.next_token.as_deref(), max, 20)?
        }
        _ => {
            return Err(ApiError::invalid_parameter(
                "Either 'SecretIdList' or 'Filters' must be provided, but not both.",
            ));
        }
    };
    let (mut values, mut errors) = (Vec::new(), Vec::new());
    for id in ids {
        match read_value(tx, &id, None, None, stale) {
            Ok(value) => values.push(value),
            Err(error) => {
                errors.push(json!({ "SecretId": id, "ErrorCode": error.kind, "Message": error.message }));
            }
        }
    }
    Ok(answer(json!({ "SecretValues": values, "Errors": errors, "NextToken": next })))
}

struct Filter {
    key: FilterKey,
    values: Vec<String>,
}

#[derive(Clone, Copy)]
enum FilterKey {
    Description,
    Name,
    TagKey,
    TagValue,
    PrimaryRegion,
    OwningService,
    All,
}

impl Filter {
    fn parse(filters: Option<Vec<wire::Filter>>) -> ApiResult<Vec<Self>> {
        let filters = filters.unwrap_or_default();
        wire::length("filters", filters.len(), 0..=10)?;
        filters.into_iter().map(Self::parse_one).collect()
    }

    fn parse_one(filter: wire::Filter) -> ApiResult<Self> {
        let key = match wire::required("filters.key", filter.key)?.as_str() {
            "description" => FilterKey::Description,
            "name" => FilterKey::Name,
            "tag-key" => FilterKey::TagKey,
            "tag-value" => FilterKey::TagValue,
            "primary-region" => FilterKey::PrimaryRegion,
            "owning-service" => FilterKey::OwningService,
            "all" => FilterKey::All,
            _ => {
                return Err(ApiError::validation(
                    "A filter's key is description, name, tag-key, tag-value, primary-region, owning-service or all.",
                ));
            }
        };
        let values = wire::required("filters.values", filter.values)?;
        wire::length("filters.values", values.len(), 1..=10)?;
        values.iter().try_for_each(|value| wire::filter_value(value))?;
        Ok(Self { key, values })
    }

    /// Whether any value matches; the API reference does not state this. A value that begins with `!` negates its rest.
    fn matches(&self, secret: &Secret) -> bool {
        self.values.iter().any(|value| match value.strip_prefix('!') {
            Some(unwanted) => !self.key.matches(secret, unwanted),
            None => self.key.matches(secret, value),
        })
    }
}

impl FilterKey {
    fn matches(self, secret: &Secret, value: &str) -> bool {
        let tags = || secret.tags.iter().flatten();
        let description = || secret.description.as_deref().is_some_and(|text| has_words(text, value));
        match self {
            // Prefixes, with regard to case.
            Self::Name => secret.name.starts_with(value),
            Self::TagKey => tags().any(|tag| tag.key.starts_with(value)),
            Self::TagValue => tags().any(|tag| tag.value.starts_with(value)),
            Self::Description => description(),
            // The sandbox has no replicas, and no secrets of services.
            Self::PrimaryRegion | Self::OwningService => false,
            Self::All => {
                let text_matches = |text: &str| has_words(text, value);
                text_matches(&secret.name)
                    || description()
                    || tags().any(|tag| text_matches(&tag.key) || text_matches(&tag.value))
            }
        }
    }
}

/// Whether each word of `value` begins a word of `text`, without regard to case.
fn has_words(text: &str, value: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
    };
    let text = words(text);
    words(value).iter().all(|wanted| text.iter().any(|word| word.starts_with(wanted.as_str())))
}
