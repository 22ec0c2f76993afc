//! Why a request was not done: an entry of the catalogue as RFC 9457's problem details.

use crate::actors::TellError;
use crate::domain::catalogue::Code;
use crate::domain::entity::Rejection;
use crate::domain::failure::{Cause, Class, Failure, in_full};
use crate::ports::event_store::StoreError;
use crate::views::FailureView;
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Problem(Box<Details>);

/// The body of an answer that is no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// What kind of problem it is: a URN of the catalogue entry.
    #[serde(rename = "type")]
    pub kind: String,
    /// A fact in at most 60 characters.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened here.
    pub detail: String,
    /// The id of the catalogue entry.
    pub code: String,
    /// Whether it may go well the next time.
    pub class: Class,
    /// Possible causes, the likeliest first.
    pub causes: Vec<String>,
    /// What happens if nobody does anything.
    pub next: String,
    /// What to do.
    pub actions: Vec<String>,
    /// What the state would allow, where it did not allow what was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_operations: Vec<String>,
}

impl Problem {
    /// The problem that a failure is.
    pub fn new(failure: &Failure) -> Self {
        let view = FailureView::new(failure);
        let detail = view.because();
        let FailureView { code, title, class, causes, next, action, .. } = view;
        Self(Box::new(Details {
            kind: format!("urn:lifeboat:error:{code}"),
            title,
            status: status(failure.code).as_u16(),
            detail,
            code,
            class,
            causes,
            next,
            actions: vec![action],
            allowed_operations: vec![],
        }))
    }

    fn with(mut self, change: impl FnOnce(&mut Details)) -> Self {
        change(&mut self.0);
        self
    }

    /// A request that cannot be used.
    pub(super) fn invalid(because: impl fmt::Display) -> Self {
        let failure = Failure::new(Code::RequestInvalid, Cause::Itself, "");
        Self::new(&failure.with("damage", because))
    }

    /// A request that the state of things does not allow.
    pub(super) fn not_allowed(because: impl fmt::Display) -> Self {
        let failure = Failure::new(Code::OperationNotAllowed, Cause::Itself, "");
        Self::new(&failure.with("check", because))
    }

    /// A request that names what is not there.
    pub(super) fn unknown(what: &str, name: &str) -> Self {
        let failure = Failure::new(Code::NothingOfThisName, Cause::Itself, "");
        Self::new(&failure.with("object", format!("{what} {name}")))
    }

    /// A request without the token.
    pub(super) fn unauthorized(operation: &str) -> Self {
        let failure = Failure::new(Code::TokenRefused, Cause::Itself, "");
        Self::new(&failure.with("operation", operation))
    }

    /// A request that can be answered later.
    pub(super) fn not_ready(operation: &str, because: impl fmt::Display) -> Self {
        let failure = Failure::new(Code::ServiceNotReady, Cause::Itself, because);
        Self::new(&failure.with("operation", operation))
    }

    /// A request that is larger than any command.
    pub(super) fn too_large(limit: usize) -> Self {
        let problem = Self::invalid(format!("its body has more than {limit} bytes"));
        problem.with(|it| it.status = StatusCode::PAYLOAD_TOO_LARGE.as_u16())
    }
}

/// The HTTP status of a catalogue entry: the only place that decides it.
fn status(code: Code) -> StatusCode {
    match code {
        Code::TokenRefused => StatusCode::UNAUTHORIZED,
        Code::RequestInvalid => StatusCode::BAD_REQUEST,
        Code::NothingOfThisName => StatusCode::NOT_FOUND,
        Code::OperationNotAllowed
        | Code::PrerequisiteFailed
        | Code::RegistrationKeyRefused
        | Code::DiskUnusable
        | Code::DiskInUse => StatusCode::CONFLICT,
        Code::ServiceNotReady => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl std::ops::Deref for Problem {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let text = rejection.to_string();
        match rejection {
            Rejection::NotAllowed { allowed, .. } => {
                let problem = Self::not_allowed(text);
                let allowed = allowed.into_iter().map(str::to_owned).collect();
                problem.with(|it| it.allowed_operations = allowed)
            }
            Rejection::Conflict { .. } => Self::not_allowed(text),
            Rejection::OutOfRange { .. } => Self::invalid(text),
            Rejection::Unknown { what, name } => Self::unknown(what, &name),
            Rejection::Prerequisites { name, failed } => {
                let failure = Failure::new(Code::PrerequisiteFailed, Cause::Itself, "");
                let names = failed.iter().filter_map(|it| it.split(':').next());
                let names = names.collect::<Vec<_>>().join(", ");
                let problem = Self::new(&failure.with("check", names).with("vm", name));
                problem.with(|it| it.actions = failed)
            }
            Rejection::KeyRefused { because } => {
                let failure = Failure::new(Code::RegistrationKeyRefused, Cause::Itself, "");
                Self::new(&failure.with("damage", because))
            }
            Rejection::Refused { because } => {
                let failure = Failure::new(Code::OperationNotAllowed, Cause::Itself, "");
                Self::new(&failure.with("check", because))
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let failure = Failure::new(Code::EventLogFailed, Cause::Itself, in_full(&error));
        Self::new(&failure.with("path", "the data folder"))
    }
}

impl From<TellError> for Problem {
    fn from(error: TellError) -> Self {
        match error {
            TellError::Rejected(rejection) => rejection.into(),
            TellError::Store(error) => error.into(),
            TellError::Gone { .. } => Self::not_ready("the command", error),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        response.content_type("application/problem+json");
        match serde_json::to_vec(self) {
            Ok(body) => response.body(body),
            Err(_) => response.finish(),
        }
    }
}
