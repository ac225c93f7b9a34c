//! The Terraform under `scripts/terraform` makes the bucket that `snap sync` relies on.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use hcl::{Block, Body, Expression};
use serde_json::{Map, Value, json};

/// All files together.
fn body() -> Body {
    let mut text = String::new();
    let mut files: Vec<_> = fs::read_dir("scripts/terraform")
        .expect("folder lists")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tf"))
        .collect();
    files.sort();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        text += &fs::read_to_string(&file).expect("file reads");
        let parsed: Result<Body, _> = hcl::from_str(&text);
        assert!(parsed.is_ok(), "{}: {:?}", file.display(), parsed.err());
    }
    hcl::from_str(&text).expect("HCL")
}

/// Returns what an expression says; references and templates as their text, `jsonencode(x)` as x.
fn value(expression: &Expression) -> Value {
    match expression {
        Expression::Bool(is) => json!(is),
        Expression::Number(number) => serde_json::from_str(&number.to_string()).expect("a number"),
        Expression::String(text) => json!(text),
        Expression::Array(all) => all.iter().map(value).collect(),
        Expression::Object(all) => {
            let rows = all.iter().map(|(key, of)| (key.to_string().trim_matches('"').to_owned(), value(of)));
            Value::Object(rows.collect::<Map<_, _>>())
        }
        Expression::FuncCall(call) if call.name.to_string() == "jsonencode" => value(&call.args[0]),
        other => json!(hcl::format::to_string(other).expect("formats").trim()),
    }
}

/// Returns a block's attributes and blocks; blocks of one name are a list.
fn contents(body: &Body) -> Value {
    let mut all = Map::new();
    for attribute in body.attributes() {
        all.insert(attribute.key.to_string(), value(&attribute.expr));
    }
    for block in body.blocks() {
        let rows = all.entry(block.identifier.to_string()).or_insert_with(|| json!([]));
        rows.as_array_mut().expect("blocks").push(contents(&block.body));
    }
    Value::Object(all)
}

/// Returns the resources of a kind, by name.
fn resources(kind: &str) -> Vec<(String, Value)> {
    let label = |block: &Block, at: usize| block.labels.get(at).map(|label| label.as_str().to_owned());
    let body = body();
    let blocks = body.blocks().filter(|block| block.identifier.as_str() == "resource");
    let own = blocks.filter(|block| label(block, 0).as_deref() == Some(kind));
    own.map(|block| (label(block, 1).expect("a name"), contents(&block.body))).collect()
}

/// Returns the only resource of a kind that is always made.
fn only(kind: &str) -> Value {
    let mut all = resources(kind);
    all.retain(|(_, resource)| resource.get("count").is_none());
    assert_eq!(all.len(), 1, "{kind}");
    all.remove(0).1
}

fn statements(policy: &Value) -> Vec<(String, BTreeSet<String>)> {
    let all = policy["policy"]["Statement"].as_array().expect("statements").iter();
    all.map(|one| {
        let actions = match &one["Action"] {
            Value::String(action) => BTreeSet::from([action.clone()]),
            actions => {
                let each = actions.as_array().expect("actions").iter();
                each.map(|action| action.as_str().expect("an action").to_owned()).collect()
            }
        };
        (one["Effect"].as_str().expect("an effect").to_owned(), actions)
    })
    .collect()
}

/// Returns the actions that the policy of a user allows; the others are denied.
fn user(name: &str, effect: &str) -> BTreeSet<String> {
    let (_, policy) =
        resources("aws_iam_user_policy").into_iter().find(|(found, _)| found == name).expect("the policy");
    statements(&policy)
        .into_iter()
        .filter(|(found, _)| found == effect)
        .flat_map(|(_, actions)| actions)
        .collect()
}

fn default_of(variable: &str) -> Value {
    let body = body();
    let block = body
        .blocks()
        .find(|block| {
            block.identifier.as_str() == "variable"
                && block.labels.first().is_some_and(|l| l.as_str() == variable)
        })
        .expect("the variable");
    contents(&block.body)["default"].clone()
}

#[test]
fn everything_is_locked_for_thirty_days_and_nobody_can_lift_it() {
    let bucket = only("aws_s3_bucket");
    assert_eq!(bucket["object_lock_enabled"], true);
    assert_eq!(bucket["lifecycle"][0]["prevent_destroy"], true);
    let versioning = only("aws_s3_bucket_versioning");
    assert_eq!(versioning["versioning_configuration"][0]["status"], "Enabled");
    let lock = only("aws_s3_bucket_object_lock_configuration");
    let retention = &lock["rule"][0]["default_retention"][0];
    assert_eq!(retention["mode"], "COMPLIANCE");
    assert!(retention["days"].as_str().is_some_and(|days| days.contains("var.lock_days")), "{retention}");
    assert_eq!(default_of("lock_days"), 30);
}

#[test]
fn nobody_reads_it_in_public_or_without_tls() {
    let block = only("aws_s3_bucket_public_access_block");
    for rule in ["block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets"]
    {
        assert_eq!(block[rule], true, "{rule}");
    }
    let policy = only("aws_s3_bucket_policy");
    let statement = &policy["policy"]["Statement"][0];
    assert_eq!((&statement["Effect"], &statement["Principal"]), (&json!("Deny"), &json!("*")));
    assert_eq!(statement["Action"], "s3:*");
    assert_eq!(statement["Condition"]["Bool"]["aws:SecureTransport"], "false");
    assert_eq!(statement["Resource"].as_array().map(Vec::len), Some(2), "bucket and objects");
}

#[test]
fn the_uploader_puts_and_locks_and_never_deletes() {
    let (may, never) = (user("uploader", "Allow"), user("uploader", "Deny"));
    for action in
        ["s3:PutObject", "s3:PutObjectRetention", "s3:ListBucket", "s3:ListBucketVersions", "s3:GetObject"]
    {
        assert!(may.contains(action), "{action}");
    }
    for action in ["s3:DeleteObject", "s3:DeleteObjectVersion", "s3:BypassGovernanceRetention"] {
        assert!(never.contains(action) && !may.contains(action), "{action}");
    }
    assert!(may.iter().all(|action| !action.contains('*') && !action.contains("Delete")), "{may:?}");
}

#[test]
fn who_puts_locks_nothing_for_longer_than_forty_days() {
    for name in ["uploader", "cleaner"] {
        let (_, policy) = resources("aws_iam_user_policy")
            .into_iter()
            .find(|(found, _)| found == name)
            .expect("the policy");
        let all = policy["policy"]["Statement"].as_array().expect("statements");
        let long = all.iter().find(|one| one["Sid"] == "NoLongLocks").expect("the statement");
        assert_eq!((&long["Effect"], &long["Action"][1]), (&json!("Deny"), &json!("s3:PutObjectRetention")));
        let days = &long["Condition"]["NumericGreaterThan"]["s3:object-lock-remaining-retention-days"];
        assert!(days.as_str().is_some_and(|days| days.contains("var.lock_days_max")), "{long}");
    }
    assert_eq!(default_of("lock_days_max"), 40);
}

#[test]
fn an_access_log_is_an_option_and_lies_elsewhere() {
    assert_eq!(default_of("log_access"), false);
    let logging = resources("aws_s3_bucket_logging").remove(0).1;
    assert!(logging["count"].as_str().is_some_and(|count| count.contains("var.log_access")), "{logging}");
    assert!(logging["target_bucket"].as_str().is_some_and(|bucket| bucket.contains("aws_s3_bucket.log")));
    for kind in ["aws_s3_bucket", "aws_s3_bucket_public_access_block", "aws_s3_bucket_policy"] {
        assert!(
            resources(kind).iter().any(|(name, of)| name == "log" && of.get("count").is_some()),
            "{kind}"
        );
    }
}

#[test]
fn versions_have_bounds_and_what_others_need_is_put_out() {
    let text = fs::read_to_string("scripts/terraform/main.tf").expect("reads");
    assert!(text.contains("\">= 1.5, < 2.0\"") && text.contains("\">= 5.0, < 7.0\""), "{text}");
    let body = body();
    let outputs = body.blocks().filter(|block| block.identifier.as_str() == "output");
    let names: BTreeSet<String> = outputs.map(|block| block.labels[0].as_str().to_owned()).collect();
    for name in ["store", "bucket", "alarm_topic"] {
        assert!(names.contains(name), "{names:?}");
    }
    let example = fs::read_to_string("scripts/terraform/backend.tf.example").expect("reads");
    let _: Body = hcl::from_str(&example).expect("HCL");
}

#[test]
fn the_administrator_reads_and_changes_nothing() {
    let may = user("admin", "Allow");
    assert!(may.contains("s3:GetObjectVersion") && may.contains("s3:ListBucketVersions"));
    assert!(
        may.iter().all(|action| action.starts_with("s3:Get") || action.starts_with("s3:List")),
        "{may:?}"
    );
}

#[test]
fn who_cleans_up_removes_versions_and_lifts_no_lock() {
    assert!(user("cleaner", "Allow").contains("s3:DeleteObjectVersion"));
    assert!(user("cleaner", "Deny").contains("s3:BypassGovernanceRetention"));
}

#[test]
fn no_rule_removes_or_moves_what_a_snapshot_may_need() {
    let lifecycle = only("aws_s3_bucket_lifecycle_configuration");
    let rules = lifecycle["rule"].as_array().expect("rules");
    assert_eq!(rules.len(), 2);
    for rule in rules {
        for destroys in ["expiration", "transition", "noncurrent_version_transition"] {
            assert!(rule.get(destroys).is_none(), "{destroys}: {rule}");
        }
    }
    assert!(rules.iter().any(|rule| rule.get("abort_incomplete_multipart_upload").is_some()));
    assert!(rules.iter().any(|rule| rule.get("noncurrent_version_expiration").is_some()));
    assert!(default_of("noncurrent_days").as_u64().is_some_and(|days| days >= 365));
}

#[test]
fn people_are_told_when_it_costs_more_than_ten_and_a_hundred_yen() {
    let alarm = only("aws_cloudwatch_metric_alarm");
    assert_eq!(alarm["metric_name"], "EstimatedCharges");
    assert!(alarm["alarm_actions"].to_string().contains("aws_sns_topic.cost.arn"), "{alarm}");
    assert_eq!(only("aws_sns_topic_subscription")["protocol"], "email");
    assert!(alarm["alarm_name"].as_str().is_some_and(|name| name.contains("each.key")), "{alarm}");
    let amounts = default_of("alarm_amounts");
    let amounts = amounts.as_object().expect("by severity");
    assert_eq!(amounts.keys().collect::<Vec<_>>(), ["critical", "warning"]);
}

#[test]
fn terraform_itself_takes_it() {
    let Ok(version) = Command::new("terraform").arg("version").output() else {
        println!("skipped: terraform is not installed; its language is parsed by the tests above");
        return;
    };
    assert!(version.status.success());
    let check = Command::new("terraform")
        .args(["fmt", "-check", "-diff", "scripts/terraform"])
        .output()
        .expect("runs");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}
