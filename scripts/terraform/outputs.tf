output "store" {
  description = "What [sync] store is in the configuration."
  value       = "s3://${aws_s3_bucket.backup.bucket}/${var.prefix}"
}
