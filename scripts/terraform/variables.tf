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
  description = "Amounts a month, in the currency in which Amazon bills (dollars), above which they are told: about 10 and 100 yen."
  type        = list(number)
  default     = [0.07, 0.7]
}
