//! The page of an incident: one HTML file with everything in it, for a screen, dark or light, and for paper.

use super::history::Damage;
use super::incident::{Away, FailedOver, Incident, JobSpan, Line, Track};
use super::why::Explanation;
use super::words::{bytes, span};
use crate::domain::time::Timestamp;
use crate::domain::vm::{FailoverKind, Health};
use crate::store::BUILD;
use std::fmt::Write;
use std::time::Duration;

/// Width of the drawings, in their own units; the page scales them.
const WIDTH: f64 = 1_000.0;

/// Where the axis of time begins: left of it stand the names.
const LEFT: f64 = 150.0;

const LANE: f64 = 26.0;
const CURVE: f64 = 120.0;

/// Marks on the axis of time.
const TICKS: usize = 6;

/// Steps of the axis of time, in seconds.
const STEPS: [i64; 15] =
    [1, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400, 604_800];

const CURVE_KEY: &str = "<p class=\"key\">Dashed: what the policy asks for. Shaded: its host or its vault \
     was away. Below: bytes of the logs, from when they were cut until they were in the vault. What gathers between \
     two cuts, as in an outage, is on the host alone: the event log tells of it with the next cut.</p>\n";

const STYLE: &str = include_str!("page.css");

/// The page. `explained` says of VMs why they became what they were; `title` is what the page is called.
pub fn page(incident: &Incident, explained: &[(String, Explanation)], title: &str) -> String {
    page_with(incident, explained, title, &[])
}

/// A table in front of what happened.
#[derive(Clone, Debug)]
pub struct Table {
    /// What it is about.
    pub title: String,
    /// Its columns.
    pub heads: Vec<&'static str>,
    /// Its rows; the first cell may be `ok` or `FAIL`.
    pub rows: Vec<Vec<String>>,
}

/// How often something was how large: a bar for each range.
#[derive(Clone, Debug)]
pub struct Bars {
    /// What it is about.
    pub title: String,
    /// What the drawing does not say by itself.
    pub key: String,
    /// The ranges in order: what it is called, how many, and how many of these were as they must not be.
    pub bars: Vec<(String, u64, u64)>,
}

/// Something on a page.
#[derive(Clone, Debug)]
pub enum Part {
    /// A table.
    Table(Table),
    /// A drawing of bars.
    Bars(Bars),
}

/// A page of parts, in the looks of that of an incident. `lead` says what it is about in a line.
pub fn page_of(title: &str, lead: &str, parts: &[Part]) -> String {
    let mut out = head(title);
    let _ = writeln!(out, "<p class=\"lead\">{}</p>", escaped(lead));
    for part in parts {
        out.push_str(&match part {
            Part::Table(table) => table.drawn(),
            Part::Bars(bars) => bars.drawn(),
        });
    }
    out.push_str(&foot("simulated runs"));
    out
}

/// The page with tables in front of what happened.
pub fn page_with(
    incident: &Incident,
    explained: &[(String, Explanation)],
    title: &str,
    tables: &[Table],
) -> String {
    let mut out = head(title);
    let axis = Axis::of(incident);
    let lasted = span(incident.to.0.since(incident.from.0));
    let _ = writeln!(
        out,
        "<p class=\"lead\">{} to {}, {lasted}, {} commits</p>",
        time(incident.from.0),
        time(incident.to.0),
        incident.commits
    );
    out.push_str(&damage(incident));
    for table in tables {
        out.push_str(&table.drawn());
    }
    out.push_str(&summary(incident));
    let _ = write!(out, "<h2>What happened</h2>\n{}", lanes(incident, &axis));
    let _ = write!(out, "<h2>Age of the newest recovery point</h2>\n{CURVE_KEY}");
    for vm in &incident.vms {
        out.push_str(&curve(vm, incident, &axis));
    }
    out.push_str(&causes(explained));
    out.push_str(&failovers(incident));
    out.push_str(&jobs(incident));
    out.push_str(&timeline(incident));
    out.push_str(&foot("the event log"));
    out
}

/// A page up to its title.
fn head(title: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n"
    )
}

/// The end of a page, and what it was made from.
fn foot(made_from: &str) -> String {
    format!(
        "<footer>Made from {made_from} by lifeboat {BUILD}. Times are UTC.</footer>\n\
         </main>\n</body>\n</html>\n"
    )
}

impl Table {
    fn drawn(&self) -> String {
        let mut out =
            format!("<h2>{}</h2>\n<div class=\"wide\"><table>\n<thead><tr>", escaped(&self.title));
        for head in &self.heads {
            let _ = write!(out, "<th>{}</th>", escaped(head));
        }
        out.push_str("</tr></thead>\n<tbody>\n");
        for row in &self.rows {
            out.push_str("<tr>");
            for cell in row {
                let _ = match cell.as_str() {
                    "ok" => write!(out, "<td><span class=\"normal\">ok</span></td>"),
                    "FAIL" => write!(out, "<td><span class=\"critical\">FAIL</span></td>"),
                    cell => write!(out, "<td>{}</td>", escaped(cell)),
                };
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody>\n</table></div>\n");
        out
    }
}

impl Bars {
    fn drawn(&self) -> String {
        let most = self.bars.iter().map(|(_, times, _)| *times).max().unwrap_or(0).max(1);
        let slot = (WIDTH - LEFT) / self.bars.len().max(1) as f64;
        // Names that would run into each other are left out, as the ticks of an axis are.
        let named = (90.0 / slot).ceil().max(1.0) as usize;
        let mut body = format!(
            "<text class=\"tick right\" x=\"{:.1}\" y=\"14\">{most}</text>\
             <line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{CURVE}\" y2=\"{CURVE}\"/>",
            LEFT - 6.0
        );
        for (nth, (name, times, bad)) in self.bars.iter().enumerate() {
            let (x, width) = (LEFT + nth as f64 * slot, (slot - 2.0).max(1.0));
            let says = escaped(&format!("{name}: {times}, {bad} of them failed"));
            let height = |times: u64| times as f64 / most as f64 * (CURVE - 10.0);
            let mut bar = |class: &str, bottom: f64, height: f64| {
                let _ = write!(
                    body,
                    "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" \
                     height=\"{height:.1}\"><title>{says}</title></rect>",
                    bottom - height
                );
            };
            bar("critical", CURVE, height(*bad));
            bar("job", CURVE - height(*bad), height(times.saturating_sub(*bad)));
            if nth.is_multiple_of(named) {
                let _ = write!(
                    body,
                    "<text class=\"tick left\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                    CURVE + 14.0,
                    escaped(name)
                );
            }
        }
        let (title, key) = (escaped(&self.title), escaped(&self.key));
        format!("<h2>{title}</h2>\n<p class=\"key\">{key}</p>\n") + &svg(CURVE, &self.title, &body)
    }
}

/// The axis of time.
struct Axis {
    from: i64,
    to: i64,
}

impl Axis {
    fn of(incident: &Incident) -> Self {
        let from = incident.from.0.as_millis();
        Self { from, to: incident.to.0.as_millis().max(from + 1) }
    }

    fn x(&self, at: i64) -> f64 {
        let part = (at.clamp(self.from, self.to) - self.from) as f64 / (self.to - self.from) as f64;
        LEFT + part * (WIDTH - LEFT)
    }

    /// Moments at round times.
    fn ticks(&self) -> Vec<i64> {
        let length = (self.to - self.from) / 1_000;
        let fits = |step: &&i64| length / **step <= TICKS as i64;
        let step = STEPS.iter().find(fits).unwrap_or(&STEPS[STEPS.len() - 1]) * 1_000;
        let first = self.from.div_euclid(step) + 1;
        (first..).map(|nth| nth * step).take_while(|at| *at <= self.to).take(100).collect()
    }

    /// Lines and times, for a drawing of this height.
    fn drawn(&self, height: f64) -> String {
        let mut out = String::new();
        for at in self.ticks() {
            let x = self.x(at);
            let label = Timestamp::from_millis(at).to_string();
            let label = label.get(11..19).unwrap_or_default();
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{height}\"/>\
                 <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\">{label}</text>",
                height + 14.0
            );
        }
        out
    }

    /// A box from one moment to another, never too narrow to be seen.
    fn bar(
        &self,
        class: &str,
        from: i64,
        until: Option<i64>,
        y: f64,
        height: f64,
        says: &str,
    ) -> String {
        let (start, end) = (self.x(from), self.x(until.unwrap_or(self.to)));
        let width = (end - start).max(1.5);
        format!(
            "<rect class=\"{class}\" x=\"{start:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\"><title>{}</title></rect>",
            escaped(says)
        )
    }
}

fn svg(height: f64, label: &str, body: &str) -> String {
    format!(
        "<div class=\"wide\"><svg role=\"img\" aria-label=\"{}\" viewBox=\"0 0 {WIDTH} {:.0}\">{body}\
         </svg></div>\n",
        escaped(label),
        height + 18.0
    )
}

fn name_at(y: f64, name: &str) -> String {
    format!("<text class=\"name\" x=\"0\" y=\"{y:.1}\">{}</text>", escaped(&shortened(name)))
}

fn shortened(name: &str) -> String {
    let short: String = name.chars().take(20).collect();
    if short.len() < name.len() { format!("{short}…") } else { short }
}

fn damage(incident: &Incident) -> String {
    let mut out = String::new();
    for damage in Damage::told(&incident.damage) {
        let _ = writeln!(
            out,
            "<p class=\"warning\">Damaged: {}. What follows from it is not certain.</p>",
            escaped(&damage)
        );
    }
    out
}

fn summary(incident: &Incident) -> String {
    let mut out = String::from(
        "<div class=\"wide\"><table>\n<thead><tr><th>VM</th><th>Worst health</th><th>Critical for</th>\
         <th>Greatest RPO</th><th>Asked for</th><th>Failed attempts</th>\
         <th>Resynchronizations</th><th>Failures</th></tr></thead>\n<tbody>\n",
    );
    for vm in &incident.vms {
        let worst =
            vm.health.iter().map(|(_, level)| *level).max().unwrap_or(Health::NotApplicable);
        let attempts = incident.attempts.iter().filter(|it| it.vm == vm.name).count();
        let failures: Vec<&str> = vm.failures.iter().copied().collect();
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td><span class=\"{}\">{worst}</span></td><td>{}</td><td>{}</td>\
             <td>{}</td><td>{attempts}</td><td>{}</td><td>{}</td></tr>",
            escaped(&vm.name),
            class(worst),
            seconds(vm.critical_seconds),
            seconds(vm.rpo_max_seconds),
            seconds(vm.rpo_target_seconds),
            vm.resyncs,
            escaped(&failures.join(", ")),
        );
    }
    out.push_str("</tbody>\n</table></div>\n");
    out
}

/// Who was away, how the VMs were, which jobs ran and which attempts failed, over one axis.
fn lanes(incident: &Incident, axis: &Axis) -> String {
    let mut names: Vec<&str> = Vec::new();
    for away in &incident.away {
        if !names.contains(&away.what.as_str()) {
            names.push(&away.what);
        }
    }
    let height = LANE * (names.len() + 2 * incident.vms.len()) as f64;
    let mut body = axis.drawn(height);
    let mut y = 0.0;
    for name in names {
        body.push_str(&name_at(y + 17.0, name));
        for away in incident.away.iter().filter(|it| it.what == name) {
            body.push_str(&axis.bar(
                "away",
                away.from,
                away.until,
                y + 4.0,
                LANE - 8.0,
                &says(away),
            ));
        }
        y += LANE;
    }
    for vm in &incident.vms {
        body.push_str(&name_at(y + 17.0, &vm.name));
        body.push_str(&health_strip(vm, axis, y));
        y += LANE;
        for job in incident.jobs.iter().filter(|job| job.vm == vm.name) {
            body.push_str(&job_bar(job, axis, y));
        }
        for attempt in incident.attempts.iter().filter(|attempt| attempt.vm == vm.name) {
            let x = axis.x(attempt.at);
            let says = format!("attempt {} failed: {}", attempt.attempt, attempt.because);
            let _ = write!(
                body,
                "<path class=\"attempt\" d=\"M{x:.1} {:.1}l4 8h-8z\"><title>{}</title></path>",
                y - 2.0,
                escaped(&says)
            );
        }
        y += LANE;
    }
    let key = "<p class=\"key\"><span class=\"normal\">Normal</span> \
               <span class=\"warn\">Warning</span> <span class=\"critical\">Critical</span> \
               <span class=\"none\">not protected</span> <span class=\"away\">away</span> \
               <span class=\"job\">job</span> <span class=\"attempt\">▲ failed attempt</span></p>\n";
    svg(height, "Health, jobs and failed attempts over time", &body) + key
}

fn says(away: &Away) -> String {
    let end = away.until.map_or("the end".to_owned(), |until| time(Timestamp::from_millis(until)));
    format!("{} away until {end}: {}", away.what, away.because)
}

fn health_strip(vm: &Track, axis: &Axis, y: f64) -> String {
    let ends = vm.health.iter().skip(1).map(|(at, _)| Some(*at)).chain([None]);
    let mut spells: Vec<_> = vm.health.iter().zip(ends).collect();
    // The worst last: a short one is not hidden by what follows it.
    spells.sort_by_key(|((_, level), _)| *level);
    let mut out = String::new();
    for ((from, level), until) in spells {
        let says = format!("{} {level} from {}", vm.name, time(Timestamp::from_millis(*from)));
        out.push_str(&axis.bar(class(*level), *from, until, y + 4.0, LANE - 8.0, &says));
    }
    out
}

fn job_bar(job: &JobSpan, axis: &Axis, y: f64) -> String {
    let class = match job.outcome.as_deref() {
        Some("Failed") => "job failed",
        Some("Cancelled") => "job cancelled",
        Some(_) | None => "job",
    };
    let says = format!("{}, asked for by {}", job.title, job.asked_by);
    let mut out = axis.bar(class, job.from, job.until, y + 6.0, 6.0, &says);
    let (start, end) = (axis.x(job.from), axis.x(job.until.unwrap_or(axis.to)));
    if 60.0 < end - start {
        let _ = write!(
            out,
            "<text class=\"tick left\" x=\"{start:.1}\" y=\"{:.1}\">{}</text>",
            y + 22.0,
            escaped(&job.title)
        );
    }
    out
}

/// One VM's RPO with what the policy asks for, what was away behind it, and its logs below.
fn curve(vm: &Track, incident: &Incident, axis: &Axis) -> String {
    let highest = vm.rpo_max_seconds.max(vm.rpo_target_seconds * 1.5).max(1.0);
    let y = |rpo: f64| CURVE - 4.0 - rpo / highest * (CURVE - 16.0);
    let mut body = String::new();
    for away in incident.away.iter().filter(|away| vm.depends_on.contains(&away.what)) {
        body.push_str(&axis.bar("behind", away.from, away.until, 0.0, CURVE, &says(away)));
    }
    body.push_str(&axis.drawn(CURVE));
    let target = y(vm.rpo_target_seconds);
    let _ = write!(
        body,
        "<line class=\"target\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{target:.1}\" y2=\"{target:.1}\"/>\
         <text class=\"tick right\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
         <text class=\"tick right\" x=\"{:.1}\" y=\"12\">{}</text>",
        LEFT - 6.0,
        target + 4.0,
        seconds(vm.rpo_target_seconds),
        LEFT - 6.0,
        seconds(highest)
    );
    let points: Vec<String> =
        vm.rpo.iter().map(|(at, rpo)| format!("{:.1},{:.1}", axis.x(*at), y(*rpo))).collect();
    let _ = write!(body, "<polyline class=\"rpo\" points=\"{}\"/>", points.join(" "));
    body.push_str(&not_replicated(vm, axis));
    body.push_str(&name_at(CURVE / 2.0, &vm.name));
    body.push_str(&log_bars(vm, axis));
    svg(CURVE + 40.0, &format!("RPO and logs of {}", vm.name), &body)
}

/// Says so where the curve ends, as after a failover, unless there is no room for it.
fn not_replicated(vm: &Track, axis: &Axis) -> String {
    let end = vm.rpo.last().map_or(LEFT, |(at, _)| axis.x(*at));
    if WIDTH - end < 130.0 {
        return String::new();
    }
    format!(
        "<text class=\"tick left\" x=\"{:.1}\" y=\"{:.1}\">not replicated</text>",
        end + 8.0,
        CURVE - 8.0
    )
}

/// Bytes of the logs, from when they were cut to when they were in the vault.
fn log_bars(vm: &Track, axis: &Axis) -> String {
    let (top, room) = (CURVE + 18.0, 20.0);
    let most = vm.logs.iter().map(|log| log.bytes).max().unwrap_or(0);
    let mut out = String::new();
    for (nth, log) in vm.logs.iter().enumerate() {
        let height = (log.bytes as f64 / most.max(1) as f64 * room).max(0.5);
        let cut = time(Timestamp::from_millis(log.cut));
        let arrived = log.arrived.map(Timestamp::from_millis);
        let end = arrived.map_or("not in the vault in the end".to_owned(), |at| {
            format!("in the vault at {}", time(at))
        });
        // Logs that never arrive are followed by the next ones.
        let until = log.arrived.or_else(|| vm.logs.get(nth + 1).map(|next| next.cut));
        let says = format!("{} cut at {cut}, {end}", bytes(log.bytes));
        out.push_str(&axis.bar("log", log.cut, until, top + room - height, height, &says));
    }
    let _ = write!(
        out,
        "<text class=\"tick right\" x=\"{:.1}\" y=\"{:.1}\">logs cut, up to {}</text>",
        LEFT - 6.0,
        top + room,
        bytes(most)
    );
    out
}

fn causes(explained: &[(String, Explanation)]) -> String {
    let mut out = String::new();
    for (name, explanation) in explained {
        let _ = writeln!(out, "<h2>Why {} became Critical</h2>", escaped(name));
        for sentence in &explanation.what {
            let _ = writeln!(out, "<p>{}</p>", escaped(sentence));
        }
        out.push_str("<ol class=\"chain\">\n");
        for link in &explanation.chain {
            let events = link.events.iter().map(|event| escaped(event)).collect::<Vec<_>>();
            let _ = write!(
                out,
                "<li><span class=\"seq\">{}</span> <time>{}</time> {}<br><em>{}</em>",
                link.seq,
                escaped(&link.at),
                escaped(&link.command),
                events.join("; ")
            );
            if let Some(origin) = &link.origin {
                let _ = write!(out, "<br>because {}", escaped(origin));
            }
            out.push_str("</li>\n");
        }
        out.push_str("</ol>\n");
        for line in &explanation.meanwhile {
            let _ = writeln!(out, "<p>Meanwhile: {}</p>", escaped(line));
        }
    }
    out
}

/// What failovers took, and what they may have lost.
fn failovers(incident: &Incident) -> String {
    if incident.failovers.is_empty() {
        return String::new();
    }
    let row = |it: &FailedOver| {
        let lost = match (it.kind, it.lost()) {
            (FailoverKind::Planned, _) => "nothing: it was shut down first".to_owned(),
            (FailoverKind::Unplanned, lost) => {
                format!("what was written in the last {}", span(lost))
            }
        };
        let moment = |at| time(Timestamp::from_millis(at));
        vec![
            it.vm.clone(),
            format!("{:?}", it.kind),
            moment(it.asked_at),
            span(it.rto()),
            moment(it.recovered_to),
            lost,
        ]
    };
    let heads = vec!["VM", "Failover", "Asked for", "RTO", "Recovered to", "Lost"];
    let rows = incident.failovers.iter().map(row).collect();
    Table { title: "Failovers".to_owned(), heads, rows }.drawn()
}

fn jobs(incident: &Incident) -> String {
    if incident.jobs.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "<h2>Jobs</h2>\n<div class=\"wide\"><table>\n<thead><tr><th>Of</th><th>Job</th><th>Asked for by</th>\
         <th>From</th><th>Took</th><th>Ended</th></tr></thead>\n<tbody>\n",
    );
    for job in &incident.jobs {
        let from = Timestamp::from_millis(job.from);
        let took = job
            .until
            .map_or("-".to_owned(), |until| span(Timestamp::from_millis(until).since(from)));
        let ended = job.outcome.as_deref().unwrap_or("still running");
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{took}</td><td>{ended}</td></tr>",
            escaped(&job.vm),
            escaped(&job.title),
            escaped(&job.asked_by),
            time(from)
        );
    }
    out.push_str("</tbody>\n</table></div>\n");
    out
}

fn timeline(incident: &Incident) -> String {
    let mut out = String::from(
        "<h2>Timeline</h2>\n<p>Deltas that went well are left out.</p>\n<div class=\"wide\"><table class=\"timeline\">\n\
         <thead><tr><th>Commit</th><th>Time</th><th>What</th></tr></thead>\n<tbody>\n",
    );
    for Line { seq, at, command, events } in &incident.timeline {
        let events = events.iter().map(|event| escaped(event)).collect::<Vec<_>>().join("; ");
        let _ = writeln!(
            out,
            "<tr><td>{seq}</td><td>{}</td><td>{}<br><em>{events}</em></td></tr>",
            time(at.0),
            escaped(command)
        );
    }
    out.push_str("</tbody>\n</table></div>\n");
    if incident.cut_short {
        out.push_str("<p class=\"warning\">There were more: choose a shorter time.</p>\n");
    }
    out
}

const fn class(level: Health) -> &'static str {
    match level {
        Health::NotApplicable => "none",
        Health::Normal => "normal",
        Health::Warning => "warn",
        Health::Critical => "critical",
    }
}

fn seconds(seconds: f64) -> String {
    if seconds <= 0.0 {
        return "-".to_owned();
    }
    span(Duration::from_millis((seconds * 1_000.0) as u64))
}

/// A moment to the second.
fn time(at: Timestamp) -> String {
    let text = at.to_string();
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time}"),
        _ => text,
    }
}

/// A text that stands for itself in HTML.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        assert_eq!(escaped("<b a=\"1\">&'"), "&lt;b a=&quot;1&quot;&gt;&amp;&#39;");
    }

    #[test]
    fn ticks_are_round_and_few() {
        let axis = Axis { from: 1_767_600_001_000, to: 1_767_600_001_000 + 16 * 60_000 };
        let ticks = axis.ticks();
        assert!((2..=TICKS + 1).contains(&ticks.len()), "{ticks:?}");
        assert!(ticks.iter().all(|at| at % 60_000 == 0));
    }
}
