//! What can be done with a job: give it up, let it go on, begin it again.

use super::{Control, Request};
use crate::api::job::{CANCEL_JOB, asked_as};
use crate::api::operation::operation;
use crate::api::outlook::Outlook;
use crate::api::problem::Problem;
use crate::api::routes::Accepted;
use crate::api::run::RunBody;
use crate::domain::entity::Rejection;
use crate::domain::id::JobId;
use crate::views::{Again, JobView};
use serde_json::json;
use std::time::Duration;

/// What can be asked of a job, after its path.
const ACTIONS: &str = "cancel, resume, restart";

impl Control {
    /// Does something with a job, unless this very request did it before. What the job is of answers.
    pub(in crate::api) async fn act_on_job(
        &self,
        id: &str,
        action: &str,
        notes: &str,
        request: Request,
    ) -> Result<Accepted, Problem> {
        let job = self.job(id, None, Duration::ZERO).await?;
        let target = job.target_id.to_string();
        let of_plan = job.target_type == "RecoveryPlan";
        if !matches!(action, "cancel" | "resume" | "restart") {
            return Err(unknown(action));
        }
        // What was done before under the id of the request is answered again, whatever the job is since.
        // A VM says itself which of its jobs runs; a plan is asked by its name.
        if request.id.is_none() && (of_plan || action != "cancel") {
            allowed(&job, action)?;
        }
        match (action, of_plan) {
            ("cancel", false) => {
                let body = json!({ "job": job.id }).to_string();
                self.operate(&CANCEL_JOB, &target, body.as_bytes(), request).await
            }
            ("cancel", true) => self.act_on_run("cancel", &job, "", request).await,
            ("resume", true) => {
                let body = json!({ "notes": notes }).to_string();
                self.act_on_run("continue", &job, &body, request).await
            }
            ("resume", false) => {
                let retry = operation("retry").ok_or_else(|| not_allowed(&job, action))?;
                self.operate(retry, &target, b"", request).await
            }
            _ => self.begin_again(&job, request).await,
        }
    }

    /// What would become of a job, and of what it is of. Nothing is changed.
    pub(in crate::api) async fn job_outlook(
        &self,
        id: &str,
        action: &str,
        notes: &str,
    ) -> Result<Outlook, Problem> {
        let job = self.job(id, None, Duration::ZERO).await?;
        let target = job.target_id.to_string();
        let refused = allowed(&job, action).err();
        let again = || self.parts.history.again(job.id, JobId::default());
        let of_plan = job.target_type == "RecoveryPlan";
        let outlook = match (action, of_plan) {
            ("cancel", false) => {
                let body = json!({ "job": job.id }).to_string();
                self.outlook(&CANCEL_JOB, &target, body.as_bytes()).await?
            }
            ("cancel", true) => self.plan_outlook("cancel", &target, b"").await?.into(),
            ("resume", true) => {
                let body = json!({ "notes": notes }).to_string();
                self.plan_outlook("continue", &target, body.as_bytes()).await?.into()
            }
            ("resume", false) => {
                let retry = operation("retry").ok_or_else(|| not_allowed(&job, action))?;
                self.outlook(retry, &target, b"").await?
            }
            ("restart", _) => match again() {
                Some(Again::Plan { kind, options }) => {
                    let body = json!(RunBody::of(&kind, &options)).to_string();
                    self.plan_outlook("run", &target, body.as_bytes()).await?.into()
                }
                Some(Again::Vm(_, command)) => {
                    let (operation, body) =
                        asked_as(&command).ok_or_else(|| not_allowed(&job, action))?;
                    self.outlook(operation, &target, body.to_string().as_bytes()).await?
                }
                None => {
                    let problem = not_allowed(&job, action);
                    let outlook =
                        Outlook::of_change(action, &job.target_name, false, String::new());
                    return Ok(outlook.refused(problem));
                }
            },
            _ => return Err(unknown(action)),
        };
        Ok(match refused {
            Some(problem) => outlook.refused(problem),
            None => outlook,
        })
    }

    async fn begin_again(&self, job: &JobView, request: Request) -> Result<Accepted, Problem> {
        let again = |as_job| self.parts.history.again(job.id, as_job);
        if let Some(Again::Plan { kind, options }) = again(JobId::default()) {
            let body = json!(RunBody::of(&kind, &options)).to_string();
            return self.act_on_run("run", job, &body, request).await;
        }
        let target = job.target_id.to_string();
        let asked = format!("restart {}", job.id);
        self.order(&asked, &target, b"", request, |asked| match again(asked.job) {
            Some(Again::Vm(_, command)) => Ok(command),
            _ => Err(not_allowed(job, "restart")),
        })
        .await
    }

    /// Has a plan do something, and answers with the job of its run.
    async fn act_on_run(
        &self,
        operation: &str,
        job: &JobView,
        body: &str,
        request: Request,
    ) -> Result<Accepted, Problem> {
        let plan = job.target_id.to_string();
        let told = self.operate_plan(operation, &plan, body.as_bytes(), request).await?;
        self.parts.history.through(self.parts.live.store.durable()).await?;
        let run = told.plan.run.as_ref().map_or(job.id, |run| run.id);
        Ok(Accepted {
            operation: told.operation,
            target: told.plan.name,
            changed: told.changed,
            commit: told.commit,
            repeated: told.repeated,
            job: self.parts.history.job(run, self.parts.live.now()),
        })
    }
}

fn unknown(action: &str) -> Problem {
    Problem::unknown("operation", &format!("{action}; there are {ACTIONS}"))
}

/// Whether the job can be dealt with like this.
fn allowed(job: &JobView, action: &str) -> Result<(), Problem> {
    let can = job.allowed_actions.iter().any(|allowed| allowed.eq_ignore_ascii_case(action));
    if can { Ok(()) } else { Err(not_allowed(job, action)) }
}

fn not_allowed(job: &JobView, action: &str) -> Problem {
    let (operation, state) = match action {
        "cancel" => ("Cancel", &job.state),
        "resume" => ("Resume", &job.state),
        _ => ("Restart", &job.state),
    };
    let words = ["Cancel", "Resume", "Restart"];
    let listed = |word: &&&str| job.allowed_actions.iter().any(|allowed| allowed == **word);
    let allowed = words.iter().filter(listed).copied().collect();
    let name = format!("job {} of {}", job.id, job.target_name);
    Problem::from(Rejection::NotAllowed { operation, name, state: state.clone(), allowed })
}
