//! What S3 answers → why a store did not do what it was asked to.

use std::error::Error;
use std::io;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::store::StoreError;
use crate::store::s3::line::is_silence;

/// What a server answers that can't do anything just now.
const PASSING: [u16; 6] = [408, 429, 500, 502, 503, 504];

/// What is asked of S3, for messages.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Location of the file or folder.
    pub path: &'a str,
    /// What was tried.
    pub verb: &'static str,
}

impl Asked<'_> {
    /// Returns the error that says `reason`.
    pub fn failed(self, kind: io::ErrorKind, reason: impl Into<String>) -> StoreError {
        let source = io::Error::new(kind, reason.into());
        StoreError::Io { path: self.path.to_owned(), verb: self.verb, source }
    }

    /// Returns the error for what S3 answered.
    pub fn refused<E, R>(self, error: &SdkError<E, R>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + 'static,
        R: std::fmt::Debug + Status + 'static,
    {
        let path = self.path.to_owned();
        let code = code(error).unwrap_or_default();
        let hint = match code {
            "NoSuchKey" | "NotFound" | "NoSuchVersion" => return StoreError::Missing { path },
            "PreconditionFailed" => return StoreError::Taken { path },
            "NoSuchBucket" => "; make the bucket first, or name another",
            "AccessDenied" | "Forbidden" | "AllAccessDisabled" => {
                "; these credentials may not do this: choose others with AWS_PROFILE or --s3-profile"
            }
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken" => {
                "; check the credentials (AWS_PROFILE, --s3-profile, AWS_ACCESS_KEY_ID)"
            }
            "PermanentRedirect" | "AuthorizationHeaderMalformed" => "; check the region (--s3-region)",
            "RequestTimeTooSkewed" => "; check this machine's clock",
            "InvalidObjectState" => {
                "; it lies in an archive: restore it there ('aws s3api restore-object'), wait some hours, and run this again"
            }
            _ => "",
        };
        let kind = match code {
            "AccessDenied" | "Forbidden" | "AllAccessDisabled" => io::ErrorKind::PermissionDenied,
            "QuotaExceeded" => io::ErrorKind::QuotaExceeded,
            _ if is_silence(error) => io::ErrorKind::TimedOut,
            _ if error.as_service_error().is_none() => io::ErrorKind::NotConnected,
            _ if error.raw_response().is_some_and(|answer| PASSING.contains(&answer.status())) => {
                io::ErrorKind::HostUnreachable
            }
            _ => io::ErrorKind::Other,
        };
        let said = match error.as_service_error() {
            Some(service) => {
                let message = service.meta().message().unwrap_or("no reason given");
                let status = error.raw_response().map_or(0, Status::status);
                let code = if code.is_empty() { format!("HTTP {status}") } else { code.to_owned() };
                format!("{code}: {message}")
            }
            None => not_answered(error),
        };
        self.failed(kind, format!("{}{hint}", said.trim_end_matches('.')))
    }
}

/// The HTTP status of an answer.
pub trait Status {
    /// Returns it.
    fn status(&self) -> u16;
}

impl Status for aws_sdk_s3::config::http::HttpResponse {
    fn status(&self) -> u16 {
        Self::status(self).as_u16()
    }
}

/// Returns the code of S3's answer; of answers without a body, what their status means.
pub fn code<E: ProvideErrorMetadata, R: Status>(error: &SdkError<E, R>) -> Option<&str> {
    let service = error.as_service_error()?;
    service.meta().code().or_else(|| match error.raw_response().map(Status::status) {
        Some(403) => Some("AccessDenied"),
        Some(404) => Some("NotFound"),
        Some(412) => Some("PreconditionFailed"),
        Some(416) => Some("InvalidRange"),
        Some(501) => Some("NotImplemented"),
        _ => None,
    })
}

/// Returns the causes of an error on one line, each once.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.iter().any(|before| before.contains(&text)) {
            said.push(text);
        }
        cause = error.source();
    }
    said.join(": ")
}

/// Says why there was no answer.
fn not_answered<E: Error + 'static, R: std::fmt::Debug + 'static>(error: &SdkError<E, R>) -> String {
    let all = causes(error);
    match error {
        _ if all.contains("credential") => format!(
            "no credentials: {all}; set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials"
        ),
        _ if all.contains("certificate") => format!(
            "no connection: {all}; where the server's certificate is of an authority of your own, name its file with AWS_CA_BUNDLE"
        ),
        _ if is_silence(error) => format!("no answer in time: {all}; check the network, then run it again"),
        SdkError::TimeoutError(_) => {
            format!("no answer in time: {all}; check the network, then run it again")
        }
        SdkError::DispatchFailure(_) => format!("no connection: {all}; check the network and the endpoint"),
        _ => all,
    }
}
