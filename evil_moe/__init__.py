"""Evil MoE, the method: a two-expert LoRA, its router and the pin that holds it (torch and peft only).

One legend for the axis letters in every annotation of this package:

    B  rollouts (sequences) of a batch      T  tokens (padded length, or packed length)
    M  wrapped linear modules               r  rank of the deployed block
    K  quarantine blocks                    q  rank of one quarantine block
    R  r + K * q, the adapter's whole rank  D  width of a linear's input or output
    P  contrastive pairs                    S  sides of the pairs, 2 * P
"""
