# Who asked what of the bucket, as lines in a second one: with -var log_access=true. Amazon writes them some hours
# later, as well as it can. Nobody of access.tf may read or remove them.

resource "aws_s3_bucket" "log" {
  count  = var.log_access ? 1 : 0
  bucket = "${var.bucket}-log"
}

resource "aws_s3_bucket_public_access_block" "log" {
  count                   = var.log_access ? 1 : 0
  bucket                  = aws_s3_bucket.log[0].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_policy" "log" {
  count      = var.log_access ? 1 : 0
  bucket     = aws_s3_bucket.log[0].id
  depends_on = [aws_s3_bucket_public_access_block.log]

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "LogsFromTheBucket"
        Effect    = "Allow"
        Principal = { Service = "logging.s3.amazonaws.com" }
        Action    = "s3:PutObject"
        Resource  = ["${aws_s3_bucket.log[0].arn}/*"]
        Condition = { ArnLike = { "aws:SourceArn" = aws_s3_bucket.backup.arn } }
      },
      {
        Sid       = "TlsOnly"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [aws_s3_bucket.log[0].arn, "${aws_s3_bucket.log[0].arn}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  })
}

resource "aws_s3_bucket_lifecycle_configuration" "log" {
  count  = var.log_access ? 1 : 0
  bucket = aws_s3_bucket.log[0].id

  rule {
    id     = "old-lines"
    status = "Enabled"

    filter {}

    expiration {
      days = var.log_days
    }
  }
}

resource "aws_s3_bucket_logging" "backup" {
  count         = var.log_access ? 1 : 0
  bucket        = aws_s3_bucket.backup.id
  target_bucket = aws_s3_bucket.log[0].id
  target_prefix = "${var.bucket}/"
  depends_on    = [aws_s3_bucket_policy.log]
}
