# Who may do what. Keys are made by hand (aws iam create-access-key), so that none lies in Terraform's state.

# The mail server's, every night: puts, locks and looks. Deletes nothing, and lifts no lock.
resource "aws_iam_user" "uploader" {
  name = "${var.bucket}-uploader"
}

resource "aws_iam_user_policy" "uploader" {
  name = "uploader"
  user = aws_iam_user.uploader.name

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "PutAndLock"
        Effect   = "Allow"
        Action   = ["s3:PutObject", "s3:PutObjectRetention", "s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention"]
        Resource = ["${aws_s3_bucket.backup.arn}/${var.prefix}/*"]
      },
      {
        Sid    = "Look"
        Effect = "Allow"
        Action = [
          "s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketVersioning",
          "s3:GetBucketObjectLockConfiguration", "s3:GetLifecycleConfiguration",
        ]
        Resource = [aws_s3_bucket.backup.arn]
      },
      {
        # A lock can't be shortened: who has stolen these keys could make the bucket cost money for a hundred years.
        Sid       = "NoLongLocks"
        Effect    = "Deny"
        Action    = ["s3:PutObject", "s3:PutObjectRetention"]
        Resource  = ["${aws_s3_bucket.backup.arn}/*"]
        Condition = { NumericGreaterThan = { "s3:object-lock-remaining-retention-days" = tostring(var.lock_days_max) } }
      },
      {
        Sid    = "NeverDelete"
        Effect = "Deny"
        Action = [
          "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:BypassGovernanceRetention", "s3:PutObjectLegalHold",
          "s3:PutBucketObjectLockConfiguration", "s3:PutBucketVersioning", "s3:PutLifecycleConfiguration",
          "s3:PutBucketPolicy", "s3:DeleteBucket",
        ]
        Resource = [aws_s3_bucket.backup.arn, "${aws_s3_bucket.backup.arn}/*"]
      },
    ]
  })
}

# The administrator's, after a loss: reads every version, changes nothing.
resource "aws_iam_user" "admin" {
  name = "${var.bucket}-admin"
}

resource "aws_iam_user_policy" "admin" {
  name = "admin"
  user = aws_iam_user.admin.name

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "Read"
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention"]
        Resource = ["${aws_s3_bucket.backup.arn}/*"]
      },
      {
        Sid    = "Look"
        Effect = "Allow"
        Action = [
          "s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketVersioning",
          "s3:GetBucketObjectLockConfiguration", "s3:GetLifecycleConfiguration",
        ]
        Resource = [aws_s3_bucket.backup.arn]
      },
    ]
  })
}

# For `snap sync --delete`, now and then, from a machine that is not the mail server: removes versions whose
# lock is over, and can't remove others.
resource "aws_iam_user" "cleaner" {
  name = "${var.bucket}-cleaner"
}

resource "aws_iam_user_policy" "cleaner" {
  name = "cleaner"
  user = aws_iam_user.cleaner.name

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "Remove"
        Effect = "Allow"
        Action = [
          "s3:DeleteObjectVersion", "s3:PutObject", "s3:PutObjectRetention", "s3:GetObject", "s3:GetObjectVersion",
          "s3:GetObjectRetention",
        ]
        Resource = ["${aws_s3_bucket.backup.arn}/${var.prefix}/*"]
      },
      {
        Sid    = "Look"
        Effect = "Allow"
        Action = [
          "s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketVersioning",
          "s3:GetBucketObjectLockConfiguration", "s3:GetLifecycleConfiguration",
        ]
        Resource = [aws_s3_bucket.backup.arn]
      },
      {
        # A lock can't be shortened: who has stolen these keys could make the bucket cost money for a hundred years.
        Sid       = "NoLongLocks"
        Effect    = "Deny"
        Action    = ["s3:PutObject", "s3:PutObjectRetention"]
        Resource  = ["${aws_s3_bucket.backup.arn}/*"]
        Condition = { NumericGreaterThan = { "s3:object-lock-remaining-retention-days" = tostring(var.lock_days_max) } }
      },
      {
        Sid      = "NoBypass"
        Effect   = "Deny"
        Action   = ["s3:BypassGovernanceRetention"]
        Resource = ["${aws_s3_bucket.backup.arn}/*"]
      },
    ]
  })
}
