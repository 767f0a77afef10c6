package fulfillment

import fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"

type stockServer struct {
	*Service
	fulfillmentv1.UnimplementedStockServiceServer
}
