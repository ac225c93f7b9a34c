//! The mail about what a bucket costs.

use std::fmt::Write;

use crate::base::units::show_bytes as bytes;
use crate::job::clock::{day, shown};
use crate::job::cost::{Amount, Bill, Exceeded, money};
use crate::job::notice::{Facts, Mail, steps};

/// Returns the mail about a bucket that costs more than a level; `before` is what it cost in an earlier month.
pub fn cost(
    facts: &Facts<'_>,
    store: &str,
    bill: &Bill,
    exceeded: Exceeded,
    before: Option<(&str, Amount)>,
) -> Mail {
    let (now, currency) = (bill.amount, &bill.currency);
    let mut body = format!(
        "The bucket of {} on {} costs about {} {currency} a month, more than {}.\n\n",
        facts.name,
        facts.host,
        money(now.cost),
        money(exceeded.level)
    );
    let _ = writeln!(body, "Date:        {}", shown(facts.began));
    let _ = writeln!(body, "Bucket:      {store}");
    let _ =
        writeln!(body, "Cost:        about {} {currency} a month, by the configured prices", money(now.cost));
    let _ = writeln!(body, "Stored:      {}", bytes(now.stored_bytes));
    let levels: Vec<String> = bill.levels.iter().map(|level| money(*level)).collect();
    let _ = writeln!(body, "Levels:      {} {currency} (sync.budget)", levels.join(", "));
    let _ = match before {
        None => writeln!(body, "Before:      nothing is known of an earlier month"),
        Some((month, before)) => {
            let sign = |is_less: bool| if is_less { "-" } else { "+" };
            writeln!(
                body,
                "Before:      {} {currency} and {} in {month}: {}{} {currency}, {}{}",
                money(before.cost),
                bytes(before.stored_bytes),
                sign(now.cost < before.cost),
                money((now.cost - before.cost).abs()),
                sign(now.stored_bytes < before.stored_bytes),
                bytes(now.stored_bytes.abs_diff(before.stored_bytes))
            )
        }
    };
    steps::section(facts, &mut body);
    body.push_str("\nThis mail comes once a month for each level.\n");
    let level = if exceeded.is_critical { "CRITICAL" } else { "WARNING" };
    Mail {
        subject: format!(
            "[{level}] {} Bucket Costs {} {currency} a Month - {}",
            facts.name,
            money(now.cost),
            day(facts.began)
        ),
        body,
    }
}
