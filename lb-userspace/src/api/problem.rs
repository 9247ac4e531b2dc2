//! Errors of the API: RFC 9457 problem details with a remedy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::SubjectName;

/// An error as the API answers it, with content type `application/problem+json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// What kind of problem.
    #[serde(rename = "type")]
    pub kind: ProblemKind,
    /// The kind in words, always the same for it.
    pub title: String,
    /// HTTP status code.
    pub status: u16,
    /// What went wrong this time.
    pub detail: String,
    /// What to do about it.
    pub remedy: String,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident, $urn:literal, $status:literal, $title:literal;)*) => {
        /// Kinds of problems.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
        pub enum ProblemKind {
            $($(#[$doc])* #[serde(rename = $urn)] $name,)*
            /// A kind that this version does not know.
            #[serde(other, rename = "about:blank")]
            Unknown,
        }

        impl ProblemKind {
            const fn parts(self) -> (u16, &'static str) {
                match self {
                    $(Self::$name => ($status, $title),)*
                    Self::Unknown => (500, "Unknown problem"),
                }
            }
        }
    };
}

kinds! {
    /// The request is not well formed or a value is out of range.
    Invalid, "urn:weir:problem:invalid", 400, "Invalid request";
    /// There is no service, backend or domain of that name.
    NotFound, "urn:weir:problem:not-found", 404, "Not found";
    /// The API has no such address.
    NoRoute, "urn:weir:problem:no-route", 404, "No such address";
    /// The address does not take this method.
    Method, "urn:weir:problem:method", 405, "Method not allowed";
    /// A configuration cannot be put in force.
    Config, "urn:weir:problem:config", 422, "Invalid configuration";
    /// The present state does not allow it.
    Conflict, "urn:weir:problem:conflict", 409, "Refused in the present state";
    /// What the request expects to be in force is not.
    Precondition, "urn:weir:problem:precondition", 412, "Not what was expected";
    /// An idempotency key came before with another request.
    KeyReused, "urn:weir:problem:key-reused", 422, "Idempotency key used twice";
    /// The request's Host is none under which this host is asked.
    Host, "urn:weir:problem:host", 421, "Asked under a foreign name";
    /// The caller may not do that.
    Forbidden, "urn:weir:problem:forbidden", 403, "Not allowed";
    /// Too many requests come from the caller's address.
    Rate, "urn:weir:problem:rate", 429, "Too many requests";
    /// The body is too large.
    TooLarge, "urn:weir:problem:too-large", 413, "Request too large";
    /// The daemon failed.
    Internal, "urn:weir:problem:internal", 500, "Internal failure";
    /// Too many requests of this kind are being served.
    Busy, "urn:weir:problem:busy", 503, "Busy";
    /// The request was not served in time.
    Timeout, "urn:weir:problem:timeout", 504, "Not served in time";
}

impl Problem {
    /// A problem of this kind.
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (status, title) = kind.parts();
        Self { kind, title: title.to_owned(), status, detail: detail.into(), remedy: remedy.into() }
    }

    /// There is no such backend or domain.
    #[must_use]
    pub fn unknown_subject(subject: &SubjectName) -> Self {
        Self::not_found(subject.kind.name(), &subject.name)
    }

    /// There is no such thing: `noun` is `service`, `backend` or `domain`.
    #[must_use]
    pub fn not_found(noun: &str, name: &str) -> Self {
        let detail = format!("there is no {noun} \"{}\"", name.escape_debug());
        Self::new(ProblemKind::NotFound, detail, format!("`weir {noun} list` shows the names"))
    }
}
