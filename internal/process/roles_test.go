package process_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/rimlight/rimlight/fulfillment"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/region"
	"github.com/rimlight/rimlight/router"
	"github.com/rimlight/rimlight/verifier"
)

// Who has a storeroom's machine, and with it its token, can work on orders that are sent there, and call nothing else.
func TestAMicrofulfillmentNodeMayOnlyWork(t *testing.T) {
	var may []string
	for _, rules := range []auth.Rules{fulfillment.Rules(), verifier.Rules(), region.Rules(), router.Rules()} {
		for _, method := range slices.Sorted(maps.Keys(rules)) {
			if slices.Contains(rules[method], auth.Node) {
				may = append(may, method)
			}
		}
	}
	if want := []string{fulfillmentv1.OrderService_WorkOrders_FullMethodName}; !slices.Equal(may, want) {
		t.Errorf("a node may call %v, want %v", may, want)
	}
	if got := fulfillment.Rules()[fulfillmentv1.OrderService_WorkOrders_FullMethodName]; !slices.Equal(got, []auth.Role{auth.Node}) {
		t.Errorf("%v may take orders, want nodes alone", got)
	}
}
