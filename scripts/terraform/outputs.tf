output "store" {
  description = "What [sync] store is in the configuration."
  value       = "s3://${aws_s3_bucket.backup.bucket}/${var.prefix}"
}

output "bucket" {
  description = "The bucket's ARN."
  value       = aws_s3_bucket.backup.arn
}

output "alarm_topic" {
  description = "ARN of the topic that alarms go to."
  value       = aws_sns_topic.cost.arn
}

output "log_bucket" {
  description = "Name of the bucket that holds the access log; none without log_access."
  value       = one(aws_s3_bucket.log[*].bucket)
}
