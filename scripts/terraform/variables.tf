variable "region" {
  description = "Where the bucket lies."
  type        = string
  default     = "ap-northeast-1"
}

variable "bucket" {
  description = "Name of the bucket; bucket names are unique in the world, so the account's number belongs into it."
  type        = string
}

variable "prefix" {
  description = "Start of the keys of the repository: s3://bucket/prefix."
  type        = string
  default     = "snap"
}

variable "lock_days" {
  description = "Days for which everything is locked that says nothing itself; the same as lock_days in the configuration."
  type        = number
  default     = 30
}

variable "lock_days_max" {
  description = "Most days for which the uploader may lock anything: more than lock_days, so that a wrong clock stops no run."
  type        = number
  default     = 40
}

variable "noncurrent_days" {
  description = "Days after which a version goes that something lies on top of: so many that an attack is noticed first."
  type        = number
  default     = 365
}

variable "alarm_addresses" {
  description = "Mail addresses that are told when the bucket costs more than expected."
  type        = list(string)
}

variable "alarm_amounts" {
  description = "Amounts a month, in the currency in which Amazon bills (dollars), above which they are told, by severity: about 10 and 100 yen."
  type        = map(number)
  default = {
    warning  = 0.07
    critical = 0.7
  }
}

variable "log_access" {
  description = "Whether a second bucket gets a line for each request: who put, locked, read or tried to delete what."
  type        = bool
  default     = false
}

variable "log_days" {
  description = "Days for which these lines are kept."
  type        = number
  default     = 400
}
