# Tells people when the bucket costs more than expected. Needs "Receive billing alerts" in the account's billing
# preferences, once.

resource "aws_sns_topic" "cost" {
  provider = aws.billing
  name     = "${var.bucket}-cost"
}

resource "aws_sns_topic_subscription" "cost" {
  provider  = aws.billing
  for_each  = toset(var.alarm_addresses)
  topic_arn = aws_sns_topic.cost.arn
  protocol  = "email"
  endpoint  = each.value
}

resource "aws_cloudwatch_metric_alarm" "cost" {
  provider            = aws.billing
  for_each            = var.alarm_amounts
  alarm_name          = "${var.bucket}-cost-${each.key}"
  alarm_description   = "${upper(each.key)}: Amazon S3 costs more than ${each.value} dollars this month."
  namespace           = "AWS/Billing"
  metric_name         = "EstimatedCharges"
  statistic           = "Maximum"
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value
  period              = 21600
  evaluation_periods  = 1
  alarm_actions       = [aws_sns_topic.cost.arn]

  dimensions = {
    Currency    = "USD"
    ServiceName = "AmazonS3"
  }
}
