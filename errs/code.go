package errs

import "strconv"

// A Code is a number that DPS and IoT Hub clients parse: the HTTP status times
// a thousand plus a subcode. Both services share this one catalogue.
type Code int

// Status returns the HTTP status a code carries.
func (c Code) Status() int { return int(c) / 1000 }

// Name returns the documented name of c, as the iothub-errorcode header
// carries it, or the number in decimal when it has none.
func (c Code) Name() string {
	if n, ok := codeNames[c]; ok {
		return n
	}
	return strconv.Itoa(int(c))
}

// The codes this project raises. IoT Hub and DPS document more; a number
// appears here when something answers with it, or passes it on from a linked hub.
const (
	CodeBadRequest             Code = 400000
	CodeInvalidProtocolVersion Code = 400001
	CodeArgumentInvalid        Code = 400004
	CodeFormatError            Code = 400006
	CodeDeviceRepeated         Code = 400011
	CodeInvalidDeviceScope     Code = 400028
	CodeTargetCondition        Code = 400401
	CodeConfigurationContent   Code = 400402
	CodeContentImmutable       Code = 400403
	CodeMetricsQuery           Code = 400404
	CodeCustomAllocation       Code = 400207
	CodeHubNotSpecified        Code = 400208

	CodeUnauthorized       Code = 401000
	CodeHubNotFound        Code = 401001
	CodeUnauthorizedAccess Code = 401002
	CodeDeviceUnauthorized Code = 401003
	CodeSystemModule       Code = 401100

	CodeForbidden      Code = 403000
	CodeHubSuspended   Code = 403001
	CodeQuotaExceeded  Code = 403002
	CodeQueueFull      Code = 403004
	CodeDeviceDisabled Code = 403012

	CodeGenericNotFound       Code = 404000
	CodeDeviceNotFound        Code = 404001
	CodeModuleNotFound        Code = 404010
	CodeDeviceNotOnline       Code = 404103
	CodeEnrollmentNotFound    Code = 404201
	CodeRegistrationNotFound  Code = 404202
	CodeOperationNotFound     Code = 404203
	CodeConfigurationNotFound Code = 404301

	CodeMethodNotAllowed Code = 405000

	CodeConflict                   Code = 409000
	CodeDeviceAlreadyExists        Code = 409001
	CodeEnrollmentConflict         Code = 409201
	CodeModuleAlreadyExists        Code = 409301
	CodeConfigurationAlreadyExists Code = 409401
	CodePrecondition               Code = 412000
	CodePreconditionFailed         Code = 412001
	CodeMessageLockLost            Code = 412002
	CodeTooLarge                   Code = 413000
	CodeMessageTooLarge            Code = 413001
	CodeTooManyDevices             Code = 413002
	CodeTooManyModules             Code = 413003
	CodeTooManyConfigurations      Code = 413101
	CodeUnsupportedMediaType       Code = 415000
	CodeTooManyRequests            Code = 429000
	CodeThrottling                 Code = 429001
	CodeInternal                   Code = 500000
	CodeServerError                Code = 500001
	CodeBadGateway                 Code = 502000
	CodeUnavailable                Code = 503000
	CodeServiceUnavailable         Code = 503001
	CodeGatewayTimeout             Code = 504101
)

var codeNames = map[Code]string{
	CodeBadRequest:                 "GenericBadRequest",
	CodeInvalidProtocolVersion:     "InvalidProtocolVersion",
	CodeArgumentInvalid:            "ArgumentInvalid",
	CodeFormatError:                "IotHubFormatError",
	CodeDeviceRepeated:             "DeviceDefinedMultipleTimes",
	CodeInvalidDeviceScope:         "InvalidDeviceScope",
	CodeTargetCondition:            "InvalidConfigurationTargetCondition",
	CodeConfigurationContent:       "InvalidConfigurationContent",
	CodeContentImmutable:           "CannotModifyImmutableConfigurationContent",
	CodeMetricsQuery:               "InvalidConfigurationCustomMetricsQuery",
	CodeSystemModule:               "SystemModuleModifyUnauthorizedAccess",
	CodeModuleNotFound:             "ModuleNotFound",
	CodeConfigurationNotFound:      "ConfigurationNotFound",
	CodeModuleAlreadyExists:        "ModuleAlreadyExistsOnDevice",
	CodeConfigurationAlreadyExists: "ConfigurationAlreadyExists",
	CodeTooManyModules:             "TooManyModulesOnDevice",
	CodeTooManyConfigurations:      "ConfigurationCountLimitExceeded",
	CodeCustomAllocation:           "CustomAllocationFailed",
	CodeHubNotSpecified:            "CustomAllocationIotHubNotSpecified",
	CodeUnauthorized:               "GenericUnauthorized",
	CodeHubNotFound:                "IotHubNotFound",
	CodeUnauthorizedAccess:         "IotHubUnauthorizedAccess",
	CodeDeviceUnauthorized:         "IotHubUnauthorized",
	CodeForbidden:                  "GenericForbidden",
	CodeHubSuspended:               "IotHubSuspended",
	CodeQuotaExceeded:              "IotHubQuotaExceeded",
	CodeQueueFull:                  "DeviceMaximumQueueDepthExceeded",
	CodeDeviceDisabled:             "DeviceDisabled",
	CodeGenericNotFound:            "GenericNotFound",
	CodeDeviceNotFound:             "DeviceNotFound",
	CodeDeviceNotOnline:            "DeviceNotOnline",
	CodeEnrollmentNotFound:         "EnrollmentNotFound",
	CodeRegistrationNotFound:       "DeviceRegistrationNotFound",
	CodeOperationNotFound:          "AsyncOperationNotFound",
	CodeMethodNotAllowed:           "GenericMethodNotAllowed",
	CodeConflict:                   "GenericConflict",
	CodeDeviceAlreadyExists:        "DeviceAlreadyExists",
	CodeEnrollmentConflict:         "EnrollmentConflict",
	CodePrecondition:               "GenericPreconditionFailed",
	CodePreconditionFailed:         "PreconditionFailed",
	CodeMessageLockLost:            "DeviceMessageLockLost",
	CodeTooLarge:                   "GenericRequestEntityTooLarge",
	CodeMessageTooLarge:            "MessageTooLarge",
	CodeTooManyDevices:             "TooManyDevices",
	CodeUnsupportedMediaType:       "GenericUnsupportedMediaType",
	CodeTooManyRequests:            "GenericTooManyRequests",
	CodeThrottling:                 "ThrottlingException",
	CodeInternal:                   "GenericServerError",
	CodeServerError:                "ServerError",
	CodeBadGateway:                 "GenericBadGateway",
	CodeUnavailable:                "GenericServiceUnavailable",
	CodeServiceUnavailable:         "ServiceUnavailable",
	CodeGatewayTimeout:             "GatewayTimeout",
}
