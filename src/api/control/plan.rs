//! Recovery plans: looked at, defined, checked and run.

use super::{Changed, Control, Request, is_named};
use crate::api::draft::PlanDraft;
use crate::api::operation::read_body;
use crate::api::outlook::{PlanOutlook, deletable};
use crate::api::problem::Problem;
use crate::api::run::RunBody;
use crate::domain::id::{JobId, PlanId};
use crate::domain::plan::{Command, Plan};
use crate::views::{PlanView, Site};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What can be asked of a plan by name, after its path.
const OPERATIONS: &str = "run, continue, retry, cancel, check";

/// A plan with what it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanDetails {
    /// The plan.
    #[serde(flatten)]
    pub plan: PlanView,
    /// What it does.
    pub definition: PlanDraft,
}

/// The answer to a command for a plan that was accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanAccepted {
    /// What was asked.
    pub operation: String,
    /// Whether it changed anything: what is so already need not be done.
    pub changed: bool,
    /// The global position of the commit that records it.
    pub commit: Option<u64>,
    /// Whether the same request had been accepted before; nothing was done again.
    pub repeated: bool,
    /// The plan, as it is after that.
    pub plan: PlanView,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ContinueBody {
    step: Option<u32>,
    notes: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RetryBody {
    step: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// The command that an operation is.
fn command(
    operation: &str,
    site: &Site,
    plan: &Plan,
    job: JobId,
    body: &[u8],
) -> Result<Command, Problem> {
    let current = plan.running().map_or(0, |run| run.current);
    match operation {
        "define" => {
            let draft: PlanDraft = read_body(body)?;
            if draft.name.as_ref().is_some_and(|name| *name != plan.name) {
                return Err(Problem::invalid("`name` is another than that of the path"));
            }
            let definition = draft.definition(site)?;
            Ok(Command::DefinePlan { id: plan.id, name: plan.name.clone(), definition })
        }
        "delete" => Ok(Command::Delete),
        "run" | "check" => {
            let (kind, options) = read_body::<RunBody>(body)?.read()?;
            Ok(Command::start(job, kind, options))
        }
        "continue" => {
            let ContinueBody { step, notes } = read_body(body)?;
            Ok(Command::Continue { step: step.unwrap_or(current), notes })
        }
        "retry" => {
            let RetryBody { step } = read_body(body)?;
            Ok(Command::Retry { step: step.unwrap_or(current) })
        }
        "cancel" => {
            let Nothing {} = read_body(body)?;
            Ok(Command::Cancel)
        }
        other => Err(Problem::unknown("operation", &format!("{other}; there are {OPERATIONS}"))),
    }
}

/// The plan that an operation is for. One that is to be defined need not be there.
fn plan_for(operation: &str, site: &Site, name: &str) -> Result<Plan, Problem> {
    let found = site.plans.values().find(|plan| is_named(name, &plan.name, plan.id.0));
    match found {
        Some(plan) => Ok(plan.clone()),
        None if operation == "define" => {
            let id = PlanId::named(Uuid::nil(), name);
            Ok(Plan { id, name: name.to_owned(), ..Plan::default() })
        }
        None => Err(Problem::unknown("recovery plan", name)),
    }
}

impl Control {
    pub(in crate::api) async fn plans(&self) -> Result<Vec<PlanView>, Problem> {
        Ok(self.parts.live.site().await?.plans(self.parts.live.now()))
    }

    pub(in crate::api) async fn plan(&self, name: &str) -> Result<PlanDetails, Problem> {
        let site = self.parts.live.site().await?;
        let plan = plan_for("show", &site, name)?;
        let definition = PlanDraft::of(&plan.definition, &site);
        Ok(PlanDetails { plan: PlanView::new(&plan, &site, self.parts.live.now()), definition })
    }

    /// What an operation on a plan would do. Nothing is changed.
    pub(in crate::api) async fn plan_outlook(
        &self,
        operation: &str,
        name: &str,
        body: &[u8],
    ) -> Result<PlanOutlook, Problem> {
        let site = self.parts.live.site().await?;
        let plan = plan_for(operation, &site, name)?;
        let command = command(operation, &site, &plan, JobId::default(), body)?;
        let (outside, now) = (&*self.parts.outside, self.parts.live.now());
        Ok(PlanOutlook::new(operation, &command, &plan, &site, outside, now))
    }

    /// Tells a plan to do something, unless this very request told it before.
    pub(in crate::api) async fn operate_plan(
        &self,
        operation: &str,
        name: &str,
        body: &[u8],
        request: Request,
    ) -> Result<PlanAccepted, Problem> {
        let _turn = self.commands.lock().await;
        let mut site = self.parts.live.site().await?;
        // Under the id of its request a deletion is answered again, though its plan is gone.
        let gone = || self.job_of(PlanId::named(Uuid::nil(), name).0, operation, &request);
        let plan = match plan_for(operation, &site, name) {
            Err(problem) if self.answered(gone(), &request).await?.is_none() => {
                return Err(problem);
            }
            Err(_) => plan_for("define", &site, name)?,
            Ok(plan) => plan,
        };
        let job = self.job_of(plan.id.0, operation, &request);
        let command = async || {
            let command = command(operation, &site, &plan, job, body)?;
            deletable(&command, &plan, &site)?;
            Ok(command)
        };
        let Changed { commit, repeated } =
            self.change::<Plan>(plan.id.0, job, &request, command).await?;
        let plan: Plan = self.parts.live.state(plan.id.0).await?;
        site.plans.insert(plan.id, plan.clone());
        Ok(PlanAccepted {
            operation: operation.to_owned(),
            changed: commit.is_some(),
            commit,
            repeated,
            plan: PlanView::new(&plan, &site, self.parts.live.now()),
        })
    }
}
