"""What is computed: metrics of one item, and the statistics that make figures with intervals of them."""
