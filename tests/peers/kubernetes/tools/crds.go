// Package tools holds together what the cluster's tests build and read from here.
package tools

// The resource definitions are read from this module's folder; the import keeps it in go.mod.
import _ "sigs.k8s.io/gateway-api/apis/v1"
