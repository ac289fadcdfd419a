// Package conformance runs Gateway API's own suite, as it is, against the cluster that KUBECONFIG names. Its flags are the
// suite's: see sigs.k8s.io/gateway-api/conformance/utils/flags.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) {
	conformance.RunConformance(t)
}
