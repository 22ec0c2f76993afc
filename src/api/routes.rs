//! The routes, and what they answer.

use super::control::{Control, Request};
use super::operation::{operation, paths, read_body};
use super::problem::Problem;
use crate::domain::entity::Commit;
use crate::views::JobView;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::middleware::{Next, from_fn};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What every path begins with.
pub const PREFIX: &str = "/lifeboat/v1";

/// The header with the id of a request: one that is repeated is done once.
pub const REQUEST_ID_HEADER: &str = "Lifeboat-Request-Id";

/// The header that says who asks; it is kept in the log.
pub const ACTOR_HEADER: &str = "Lifeboat-Actor";

/// Bytes of the largest body: the largest command has some hundred.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Bytes of the longest name of whoever asks, and of the longest id of a request.
const HEADER_BYTES_MAX: usize = 100;

/// Jobs in one answer, unless it is said how many.
const JOBS: usize = 100;

/// The longest that a request may wait for a job to change.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The answer to a command that was accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// What was asked.
    pub operation: String,
    /// Of what.
    pub target: String,
    /// Whether it changed anything: what is so already need not be done.
    pub changed: bool,
    /// The global position of the commit that records it.
    pub commit: Option<u64>,
    /// Whether the same request had been accepted before; nothing was done again.
    pub repeated: bool,
    /// The job that it started.
    pub job: Option<JobView>,
}

/// A part of the event log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventsView {
    /// Commits, in order, as the log keeps them.
    pub events: Vec<Commit>,
    /// What to ask for `after` next.
    pub next_after: u64,
    /// The position of the last commit.
    pub durable: u64,
}

type Answer = Result<HttpResponse, Problem>;

/// Adds the routes. `control` must be shared by all workers.
pub fn configure(app: &mut web::ServiceConfig, control: web::Data<Control>) {
    // For the whole application, since what checks the token stands before the scope's own data.
    app.app_data(control);
    let scope = web::scope(PREFIX)
        .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
        .wrap(from_fn(with_token))
        .route("/status", web::get().to(status))
        .route("/vms", web::get().to(vms))
        .route("/vms/{vm}", web::get().to(vm))
        .route("/vms/{vm}/recovery-points", web::get().to(points))
        .route("/vms/{vm}/checks", web::get().to(checks))
        .route("/vms/{vm}/move", web::post().to(move_vm))
        .route("/vms/{vm}/{operation}", web::post().to(operate))
        .route("/jobs", web::get().to(jobs))
        .route("/jobs/{job}", web::get().to(job))
        .route("/jobs/{job}/{action}", web::post().to(act_on_job))
        .route("/hosts", web::get().to(hosts))
        .route("/clouds", web::get().to(clouds))
        .route("/clouds/{cloud}/policy", web::post().to(associate_policy))
        .route("/hosts/{host}/register", web::post().to(register_host))
        .route("/provider/register", web::post().to(register_provider))
        .route("/vaults", web::get().to(vaults))
        .route("/vaults/{vault}/registration-key", web::post().to(registration_key))
        .route("/policy", web::get().to(policy))
        .route("/fabrics", web::get().to(fabrics))
        .route("/network-mappings", web::get().to(mappings))
        .route("/network-mappings/{network}", web::put().to(map_network))
        .route("/network-mappings/{network}", web::delete().to(unmap_network))
        .route("/plans", web::get().to(plans))
        .route("/plans/{plan}", web::get().to(plan))
        .route("/plans/{plan}", web::put().to(define_plan))
        .route("/plans/{plan}", web::delete().to(delete_plan))
        .route("/plans/{plan}/{operation}", web::post().to(operate_plan))
        .route("/events", web::get().to(events))
        .default_service(web::to(nowhere));
    app.service(scope);
}

/// Lets a request through that carries the token.
async fn with_token(
    control: web::Data<Control>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    if !control.token().opens(given.unwrap_or_default()) {
        let asked = format!("{} {}", request.method(), request.path());
        return Err(Problem::unauthorized(&asked).into());
    }
    next.call(request).await
}

async fn nowhere(request: HttpRequest) -> Answer {
    Err(Problem::unknown("the route", &format!("{} {}", request.method(), request.path())))
}

async fn status(control: web::Data<Control>) -> Answer {
    ok(&control.status().await?)
}

async fn vms(control: web::Data<Control>) -> Answer {
    ok(&control.status().await?.vms)
}

async fn hosts(control: web::Data<Control>) -> Answer {
    ok(&control.status().await?.hosts)
}

async fn clouds(control: web::Data<Control>) -> Answer {
    ok(&control.status().await?.clouds)
}

async fn vaults(control: web::Data<Control>) -> Answer {
    ok(&control.status().await?.vaults)
}

/// A policy belongs to a cloud: each with the name of its cloud.
async fn policy(control: web::Data<Control>) -> Answer {
    let clouds = control.status().await?.clouds;
    let policies = clouds.iter().map(|cloud| {
        serde_json::json!({ "cloud": cloud.name, "policy": cloud.policy, "pending": cloud.policy_pending })
    });
    ok(&policies.collect::<Vec<_>>())
}

async fn vm(control: web::Data<Control>, name: web::Path<String>) -> Answer {
    ok(&control.vm(&name).await?)
}

async fn points(control: web::Data<Control>, name: web::Path<String>) -> Answer {
    ok(&control.points(&name).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JobsQuery {
    /// Only those of this VM, by name or id.
    vm: Option<String>,
    /// Only those in this state.
    state: Option<String>,
    limit: Option<usize>,
}

async fn jobs(control: web::Data<Control>, request: HttpRequest) -> Answer {
    let query: JobsQuery = query(&request)?;
    let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|it| it == value);
    let wanted = |job: &JobView| {
        is(&query.state, &job.state)
            && (is(&query.vm, &job.target_name) || is(&query.vm, &job.target_id.to_string()))
    };
    ok(&control.jobs(query.limit.unwrap_or(JOBS), wanted).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JobQuery {
    /// Wait until it has changed after this position of the log, or has ended.
    after: Option<u64>,
    /// So long at most.
    wait_seconds: Option<u64>,
}

async fn job(control: web::Data<Control>, id: web::Path<String>, request: HttpRequest) -> Answer {
    let JobQuery { after, wait_seconds } = query(&request)?;
    let wait = wait_seconds.map_or(WAIT_MAX, Duration::from_secs).min(WAIT_MAX);
    ok(&control.job(&id, after, wait).await?)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct JobBody {
    /// What is to be kept of it, of a run that goes on.
    notes: String,
}

async fn act_on_job(
    control: web::Data<Control>,
    path: web::Path<(String, String)>,
    request: HttpRequest,
    body: Body,
) -> Answer {
    let (id, action) = path.into_inner();
    let body = body.map_err(|error| unread(&error))?;
    let JobBody { notes } = read_body(&body)?;
    let CommandQuery { dry_run } = query(&request)?;
    if dry_run {
        return ok(&control.job_outlook(&id, &action, &notes).await?);
    }
    accepted(&control.act_on_job(&id, &action, &notes, asked(&request)?).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    after: Option<u64>,
    limit: Option<usize>,
}

async fn events(control: web::Data<Control>, request: HttpRequest) -> Answer {
    let EventsQuery { after, limit } = query(&request)?;
    ok(&control.events(after.unwrap_or(0), limit.unwrap_or(JOBS))?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandQuery {
    #[serde(default)]
    dry_run: bool,
}

async fn operate(
    control: web::Data<Control>,
    path: web::Path<(String, String)>,
    request: HttpRequest,
    body: Result<web::Bytes, actix_web::Error>,
) -> Answer {
    let (name, path) = path.into_inner();
    let CommandQuery { dry_run } = query(&request)?;
    let operation = operation(&path)
        .ok_or_else(|| Problem::unknown("operation", &format!("{path}; there are {}", paths())))?;
    let body = body.map_err(|error| unread(&error))?;
    if dry_run {
        return ok(&control.outlook(operation, &name, &body).await?);
    }
    accepted(&control.operate(operation, &name, &body, asked(&request)?).await?)
}

async fn associate_policy(
    control: web::Data<Control>,
    name: web::Path<String>,
    request: HttpRequest,
    body: Result<web::Bytes, actix_web::Error>,
) -> Answer {
    let CommandQuery { dry_run } = query(&request)?;
    let body = body.map_err(|error| unread(&error))?;
    if dry_run {
        return ok(&control.policy_outlook(&name, &body).await?);
    }
    accepted(&control.associate_policy(&name, &body, asked(&request)?).await?)
}

async fn checks(control: web::Data<Control>, name: web::Path<String>) -> Answer {
    ok(&control.checks(&name).await?)
}

async fn move_vm(
    control: web::Data<Control>,
    name: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Answer {
    let CommandQuery { dry_run } = query(&request)?;
    let body = body.map_err(|error| unread(&error))?;
    if dry_run {
        return ok(&control.move_outlook(&name, &body).await?);
    }
    accepted(&control.move_vm(&name, &body, asked(&request)?).await?)
}

async fn fabrics(control: web::Data<Control>) -> Answer {
    ok(&control.fabrics().await?)
}

async fn mappings(control: web::Data<Control>) -> Answer {
    ok(&control.mappings().await?)
}

async fn registration_key(
    control: web::Data<Control>,
    name: web::Path<String>,
    request: HttpRequest,
) -> Answer {
    let CommandQuery { dry_run } = query(&request)?;
    if dry_run {
        return ok(&control.key_outlook(&name).await?);
    }
    ok(&control.registration_key(&name, asked(&request)?).await?)
}

async fn register_host(
    control: web::Data<Control>,
    name: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Answer {
    register(&control, Some(&name), &request, body).await
}

async fn register_provider(
    control: web::Data<Control>,
    request: HttpRequest,
    body: Body,
) -> Answer {
    register(&control, None, &request, body).await
}

async fn register(
    control: &Control,
    host: Option<&str>,
    request: &HttpRequest,
    body: Body,
) -> Answer {
    let CommandQuery { dry_run } = query(request)?;
    let body = body.map_err(|error| unread(&error))?;
    if dry_run {
        return ok(&control.register_outlook(host, &body).await?);
    }
    accepted(&control.register(host, &body, asked(request)?).await?)
}

async fn map_network(
    control: web::Data<Control>,
    name: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Answer {
    let body = body.map_err(|error| unread(&error))?;
    mapped(&control, &name, Some(&body), &request).await
}

async fn unmap_network(
    control: web::Data<Control>,
    name: web::Path<String>,
    request: HttpRequest,
) -> Answer {
    mapped(&control, &name, None, &request).await
}

async fn mapped(
    control: &Control,
    network: &str,
    body: Option<&[u8]>,
    request: &HttpRequest,
) -> Answer {
    let CommandQuery { dry_run } = query(request)?;
    if dry_run {
        return ok(&control.mapping_outlook(network, body).await?);
    }
    accepted(&control.map(network, body, asked(request)?).await?)
}

async fn plans(control: web::Data<Control>) -> Answer {
    ok(&control.plans().await?)
}

async fn plan(control: web::Data<Control>, name: web::Path<String>) -> Answer {
    ok(&control.plan(&name).await?)
}

type Body = Result<web::Bytes, actix_web::Error>;

async fn define_plan(
    control: web::Data<Control>,
    name: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Answer {
    tell_plan(&control, &name, "define", &request, body).await
}

async fn delete_plan(
    control: web::Data<Control>,
    name: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Answer {
    tell_plan(&control, &name, "delete", &request, body).await
}

async fn operate_plan(
    control: web::Data<Control>,
    path: web::Path<(String, String)>,
    request: HttpRequest,
    body: Body,
) -> Answer {
    let (name, operation) = path.into_inner();
    if matches!(operation.as_str(), "define" | "delete") {
        return nowhere(request).await;
    }
    tell_plan(&control, &name, &operation, &request, body).await
}

async fn tell_plan(
    control: &Control,
    name: &str,
    operation: &str,
    request: &HttpRequest,
    body: Body,
) -> Answer {
    let CommandQuery { dry_run } = query(request)?;
    let body = body.map_err(|error| unread(&error))?;
    if dry_run || operation == "check" {
        return ok(&control.plan_outlook(operation, name, &body).await?);
    }
    let accepted = control.operate_plan(operation, name, &body, asked(request)?).await?;
    let runs = accepted.plan.run.as_ref().is_some_and(|run| run.ended_at.is_none());
    json(if runs { StatusCode::ACCEPTED } else { StatusCode::OK }, &accepted)
}

/// A body that could not be read: too large, or cut off.
fn unread(error: &actix_web::Error) -> Problem {
    if error.as_response_error().status_code() == StatusCode::PAYLOAD_TOO_LARGE {
        return Problem::too_large(BODY_BYTES_MAX);
    }
    Problem::invalid(error)
}

fn asked(request: &HttpRequest) -> Result<Request, Problem> {
    let actor = header(request, ACTOR_HEADER)?.unwrap_or_else(|| "control API".to_owned());
    Ok(Request { actor, id: header(request, REQUEST_ID_HEADER)? })
}

/// A header that gets into the log: short, and readable.
fn header(request: &HttpRequest, name: &str) -> Result<Option<String>, Problem> {
    let Some(value) = request.headers().get(name) else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| (1..=HEADER_BYTES_MAX).contains(&text.len()));
    let wrong =
        || format!("the header {name} must have 1 to {HEADER_BYTES_MAX} printable characters");
    text.map(|text| Some(text.to_owned())).ok_or_else(|| Problem::invalid(wrong()))
}

fn query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Problem> {
    let query = web::Query::<T>::from_query(request.query_string());
    query
        .map(web::Query::into_inner)
        .map_err(|error| Problem::invalid(format!("its query: {error}")))
}

fn ok(view: &impl Serialize) -> Answer {
    json(StatusCode::OK, view)
}

/// What has begun is accepted; what is so already is done.
fn accepted(accepted: &Accepted) -> Answer {
    let running = accepted.job.as_ref().is_some_and(|job| !job.ended());
    json(if running { StatusCode::ACCEPTED } else { StatusCode::OK }, accepted)
}

fn json(status: StatusCode, view: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(view).map_err(Problem::invalid)?;
    Ok(HttpResponse::build(status).content_type("application/json").body(body))
}
